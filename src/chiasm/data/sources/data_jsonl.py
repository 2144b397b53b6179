"""Layout "data_jsonl": a folder with `SPLIT/data.jsonl` files, or with one `data.jsonl` whose rows name the split.

Image paths are relative to the folder that holds the splits. Keys: id, image, captions (also captions_zh and other
languages), question and answer or answers, questions (a list of objects), sentence with a true/false label, label,
split, group_id (or patient, concept, identifier). Other keys are left alone.
"""

from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, Rejected, read_json_lines
from chiasm.data.sources.records import Columns, Reading, canonical_split, choose_split

FILE = "data.jsonl"
_SPLIT_FOLDERS = ("train", "val", "test", "hidden", "unassigned")


def recognises(path: Path) -> bool:
    """True for a `data.jsonl`, and for a folder that holds one or has subfolders that do."""
    return path.name == FILE if path.is_file() else (path / FILE).is_file() or bool(_files(path))


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's file; or the one file there is, with the splits that its rows name."""
    single = path if path.is_file() else path / FILE
    if single.is_file():
        folder = single.parent.absolute()
        inside_split = canonical_split(folder.name) in _SPLIT_FOLDERS
        reading = Reading([folder, folder.parent] if inside_split else [folder])
        read_rows(single, canonical_split(folder.name) if inside_split else "", reading)
        reading.set_splits_of_records()
        return reading
    files = _files(path)
    chosen = choose_split(split, files, path)
    reading = Reading([path], tuple(files))
    read_rows(files[chosen], chosen, reading)
    return reading


def _files(path: Path) -> dict[str, Path]:
    """Name of a split's folder -> its file."""
    return {file.parent.name: file for file in sorted(path.glob(f"*/{FILE}")) if file.is_file()}


def read_rows(file: Path, split: str, reading: Reading) -> None:
    """Add the rows of a JSON lines file; `split` is taken from its path, "" where the path names none.

    Raises:
        InputError: the first row's keys cannot be understood; later rows alone are rejected for that.
    """
    known: dict[tuple[str, ...], Columns] = {}
    for source, row in read_json_lines(file):
        if isinstance(row, Rejected):
            reading.rejected.append(row)
            continue
        try:
            columns = _columns(tuple(row), source, known)
            reading.add(columns.record(source, row), split)
        except BadRowError as error:
            reading.rejected.append(Rejected(source, error.code, error.text))


def _columns(keys: tuple[str, ...], source: Source, known: dict[tuple[str, ...], Columns]) -> Columns:
    if keys not in known:
        try:
            known[keys] = Columns(keys, str(source))
        except InputError as error:
            if not known:
                raise
            raise BadRowError("columns", error.given) from None
    return known[keys]
