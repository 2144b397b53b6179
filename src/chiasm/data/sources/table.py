"""Layout "table": a CSV, TSV or JSON lines file with one column for the picture and others for its words.

The columns are known by their usual names (`records.ROLES`), whatever their case. Rows about one picture come
together in one example. The split is a column, or the file's name (`train.csv`, `val.csv`), or is drawn.
"""

from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.data_jsonl import read_rows
from chiasm.data.sources.parsing import BadRowError, Rejected, read_lines, read_table
from chiasm.data.sources.records import Columns, Reading, choose_split, image_folders, split_in_name

_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
_JSON_SUFFIXES = (".jsonl", ".ndjson")


def recognises(path: Path) -> bool:
    """True for a file of a known suffix, and for a folder that holds one whose columns can be understood."""
    return path.suffix.lower() in _SUFFIXES if path.is_file() else bool(_files(path))


def read(path: Path, split: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one."""
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise InputError(f"{path} holds no table with a picture column", ", ".join(_SUFFIXES), "give the file's path")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files) or (len(files) > 1 and "" in by_split):
        names = ", ".join(file.name for file in files)
        raise InputError(f"{path} holds several tables: {names}", "one, or one named after each split", "give one file")
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    file = by_split[name]
    reading = Reading(image_folders(file.parent))
    if file.suffix.lower() in _JSON_SUFFIXES:
        read_rows(file, name, reading)
    else:
        _read_rows(file, name, reading)
    if name:
        reading.splits = tuple(by_split)
    else:
        reading.set_splits_of_records()
    return reading


def read_header(file: Path) -> tuple[list[str], str]:
    """Return the columns' names and the delimiter: the one of comma, tab, semicolon and bar commonest in line 1.

    Raises:
        InputError: no readable first line, or a name twice.
    """
    first = next(read_lines(file), None)
    if first is None or isinstance(first[1], Rejected):
        raise InputError(f"{file} has no readable first line", "a line with the columns' names", "check the file")
    delimiter = max(",\t;|", key=first[1].count)
    names = next(iter(read_table(file, delimiter)))[1]
    if isinstance(names, Rejected):
        raise InputError(f"{file}:1: {names.text}", "a line with the columns' names", "repair the first line")
    names = [name.strip() for name in names]
    filled = [name for name in names if name]
    if len(set(filled)) < len(filled):
        raise InputError(f"{file} has a column twice: {', '.join(names)}", "distinct names", "rename one")
    return names, delimiter


def _files(folder: Path) -> list[Path]:
    """Tables of a folder that have a picture column; other text files may lie beside them."""
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() in _SUFFIXES and _is_table(file)]


def _is_table(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        probe = Reading([])
        if file.suffix.lower() in _JSON_SUFFIXES:
            read_rows(file, "", probe)
            return bool(probe.records)
        _header(file)
    except InputError:
        return False
    return True


def _header(file: Path) -> tuple[Columns, str]:
    names, delimiter = read_header(file)
    return Columns(names, str(file)), delimiter


def _read_rows(file: Path, split: str, reading: Reading) -> None:
    columns, delimiter = _header(file)
    rows = read_table(file, delimiter)
    next(rows)
    for source, cells in rows:
        if isinstance(cells, Rejected):
            reading.rejected.append(cells)
        elif len(cells) != len(columns.names):
            text = f"the row has {len(cells)} cells, the first line {len(columns.names)}"
            reading.reject(source, "column_count", text)
        else:
            _add(cells, columns, source, split, reading)


def _add(cells: list[str], columns: Columns, source: Source, split: str, reading: Reading) -> None:
    """Add one row. An empty cell says nothing, except in a caption column, where it is an empty caption."""
    caption = columns.by_role.get("caption")
    row = {n: c for n, c in zip(columns.names, cells, strict=True) if c.strip() or n == caption}
    try:
        reading.add(columns.record(source, row), split)
    except BadRowError as error:
        reading.reject(source, error.code, error.text)
