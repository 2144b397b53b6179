"""Layout "imagefolder": each split's folder holds its images and a table of them, as Hugging Face reads it.

`train/metadata.csv` (or `.jsonl`, `.tsv`) has a column `file_name`, relative to the folder that the table lies in, and
columns with captions, questions or labels. In a folder that is named after a split the table may have any name.
"""

from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.image import SUFFIXES
from chiasm.data.sources import table
from chiasm.data.sources.parsing import Rejected
from chiasm.data.sources.records import Reading, choose_split, split_of_folder
from chiasm.data.sources.walking import files_below, subfolders

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")


def recognises(path: Path) -> bool:
    """True for a folder with a subfolder that holds such a table."""
    return path.is_dir() and bool(_tables(path))


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's table. Images that the table does not name are counted in one note.

    Raises:
        InputError: no such table, several in one folder, or no such split.
    """
    tables = _tables(path) if path.is_dir() else {}
    if not tables:
        allowed = "SPLIT/metadata.csv or SPLIT/metadata.jsonl with a column file_name"
        raise InputError(f"{path} has no subfolder with a table of images", allowed, "give the folder of the splits")
    name = choose_split(split, tables, path)
    if len(tables[name]) > 1:
        names = ", ".join(file.name for file in tables[name])
        raise InputError(f"{path / name} holds several tables: {names}", "one a split", "take the others away")
    file = tables[name][0]
    reading = Reading([file.parent.absolute(), path.absolute()], tuple(tables))
    table.read_file(file, name, reading)
    named = {Path(image.name).name for record in reading.records for image in record.images}
    others = [one for one in files_below(file.parent) if one.suffix.lower() in SUFFIXES and one.name not in named]
    if others:
        text = f"{len(others)} images stand in no row of {file.name}; the first: {others[0].name}"
        reading.notes.append(Rejected(Source(str(file)), "not_in_table", text))
    return reading


def _tables(path: Path) -> dict[str, list[Path]]:
    """Name of a subfolder -> its tables."""
    found: dict[str, list[Path]] = {}
    for folder in subfolders(path):
        files = [folder / name for name in _METADATA if (folder / name).is_file()]
        if not files and split_of_folder(folder.name):
            files = table.tables_in(folder)
        if files:
            found[folder.name] = files
    return found
