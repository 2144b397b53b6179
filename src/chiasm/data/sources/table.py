"""Layout "table": a CSV, TSV or JSON lines file with one column for the image and others for its words.

The columns are known by their usual names (`records.ROLES`), whatever their case. A table of two columns, image and
caption, needs no line of names. Rows about one image come together in one example. The split is a column, or the
file's name (`train.csv`, `val.csv`), or is drawn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.image import SUFFIXES
from chiasm.data.sources.advice import conversion
from chiasm.data.sources.data_jsonl import read_rows
from chiasm.data.sources.parsing import BadRowError, Rejected, read_lines, read_table
from chiasm.data.sources.records import Columns, Reading, choose_split, image_folders, split_in_name

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
"""Suffixes of tables."""
_JSON_SUFFIXES = (".jsonl", ".ndjson")
_IMAGE = r"\"?[^\",;|\t]*\.(?:" + "|".join(sorted(suffix[1:] for suffix in SUFFIXES)) + r")\"?"
_IMAGE_FIRST = re.compile(rf"\s*{_IMAGE}\s*([,;|\t]).*", re.IGNORECASE)
_IMAGE_LAST = re.compile(rf".*([,;|\t])\s*{_IMAGE}\s*", re.IGNORECASE)
_ROWS_LOOKED_AT = 50
"""Rows that are read to count the columns of a table without a header."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the lines of a table are cut into cells."""

    columns: Columns
    delimiter: str
    has_names: bool
    """Whether the first line holds the columns' names, and not an image yet."""

    def fit(self, cells: list[str]) -> list[str] | None:
        """Return as many cells as there are columns, or None. A caption may hold the delimiter of a nameless table."""
        if len(cells) == len(self.columns.names):
            return cells
        if self.has_names or len(cells) < 2:
            return None
        if self.columns.names[0] == "image":
            return [cells[0], self.delimiter.join(cells[1:])]
        return [self.delimiter.join(cells[:-1]), cells[-1]]


def recognises(path: Path) -> bool:
    """True for a file of a known suffix, and for a folder that holds one whose columns can be understood."""
    return path.suffix.lower() in TABLES if path.is_file() else bool(tables_in(path))


def read(path: Path, split: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one."""
    files = [path] if path.is_file() else tables_in(path)
    if not files:
        raise InputError(f"{path} holds no table with an image column", ", ".join(TABLES), "give the file's path")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files) or (len(files) > 1 and "" in by_split):
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"{path} holds several tables: {names}",
            "one, or one named after each split",
            f"give one file, such as --set data.path={files[0]}",
        )
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    file = by_split[name]
    reading = Reading(image_folders(file.parent))
    read_file(file, name, reading)
    if name:
        reading.splits = tuple(by_split)
    else:
        reading.set_splits_of_records()
    return reading


def read_file(file: Path, split: str, reading: Reading) -> None:
    """Add the rows of one table; `split` is taken from its path, "" where the path names none.

    Raises:
        InputError: the first line cannot be understood.
    """
    if file.suffix.lower() in _JSON_SUFFIXES:
        read_rows(file, split, reading)
        return
    shape = shape_of(file)
    for source, cells in islice(read_table(file, shape.delimiter), 1 if shape.has_names else 0, None):
        if isinstance(cells, Rejected):
            reading.rejected.append(cells)
        elif (fitting := shape.fit(cells)) is None:
            text = f"the row has {len(cells)} cells, the table {len(shape.columns.names)} columns"
            reading.reject(source, "column_count", text)
        else:
            _add(fitting, shape.columns, source, split, reading)


def shape_of(file: Path) -> Shape:
    """Find out a table's columns and delimiter.

    Raises:
        InputError: as `read_header` and `Columns`; or no line of names, and other than two columns.
    """
    first = next(read_lines(file), None)
    line = first[1] if first is not None and isinstance(first[1], str) else ""
    for pattern, names in ((_IMAGE_FIRST, ("image", "caption")), (_IMAGE_LAST, ("caption", "image"))):
        if match := pattern.fullmatch(line):
            _check_two_columns(file, match[1])
            return Shape(Columns(names, str(file)), match[1], False)
    names_read, delimiter = read_header(file)
    return Shape(Columns(names_read, str(file)), delimiter, True)


def read_header(file: Path) -> tuple[list[str], str]:
    """Return the columns' names and the delimiter: the one of comma, tab, semicolon and bar commonest in line 1.

    Raises:
        InputError: no readable first line, or a name twice.
    """
    first = next(read_lines(file), None)
    if first is None or isinstance(first[1], Rejected):
        problem = first[1] if first is not None and isinstance(first[1], Rejected) else None
        raise InputError(
            f"{file} has no readable first line" + (f": {problem.text}" if problem else ""),
            "a line with the columns' names, in UTF-8",
            conversion(file) if problem and problem.code == "encoding" else "check the file",
        )
    delimiter = max(",\t;|", key=first[1].count)
    names = next(iter(read_table(file, delimiter)))[1]
    if isinstance(names, Rejected):
        raise InputError(f"{file}:1: {names.text}", "a line with the columns' names", "repair the first line")
    names = [name.strip() for name in names]
    filled = [name for name in names if name]
    if len(set(filled)) < len(filled):
        raise InputError(f"{file} has a column twice: {', '.join(names)}", "distinct names", "rename one")
    return names, delimiter


def tables_in(folder: Path) -> list[Path]:
    """Tables of a folder that have an image column; other text files may lie beside them."""
    entries = sorted(folder.iterdir())
    images = {file.stem for file in entries if file.suffix.lower() in SUFFIXES}
    files = [file for file in entries if file.suffix.lower() in TABLES and file.stem not in images]
    return [file for file in files if _is_table(file)]


def _is_table(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        if file.suffix.lower() not in _JSON_SUFFIXES:
            shape_of(file)
            return True
        probe = Reading([])
        read_rows(file, "", probe)
        return bool(probe.records)
    except InputError:
        return False


def _check_two_columns(file: Path, delimiter: str) -> None:
    """Rows of three or more cells each are columns that need a header; rows of various lengths are captions."""
    rows = islice(read_table(file, delimiter), _ROWS_LOOKED_AT)
    counts = {len(cells) for _, cells in rows if not isinstance(cells, Rejected)}
    if len(counts) == 1 and min(counts) > 2:
        raise InputError(
            f"{file} has {min(counts)} columns and no line with their names",
            "two columns, image and caption; or any number with names",
            "put a line such as image,caption,split in front",
        )


def _add(cells: Iterable[str], columns: Columns, source: Source, split: str, reading: Reading) -> None:
    """Add one row. An empty cell says nothing, except in a caption column, where it is an empty caption."""
    caption = columns.by_role.get("caption")
    row = {n: c for n, c in zip(columns.names, cells, strict=True) if c.strip() or n == caption}
    try:
        reading.add(columns.record(source, row), split)
    except BadRowError as error:
        reading.reject(source, error.code, error.text)
