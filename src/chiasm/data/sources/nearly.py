"""Diagnosis of unrecognised data: which file nearly fits which layout, and what it lacks."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.data.image import SUFFIXES
from chiasm.data.sources.data_jsonl import read_rows
from chiasm.data.sources.parsing import read_head, read_table
from chiasm.data.sources.records import ROLES, Reading, column_word, split_of_folder
from chiasm.data.sources.table import TABLES, read_header, shape_of
from chiasm.data.sources.walking import files_below, subfolders

_FILES_TRIED = 40
_FOLDERS_TRIED = 40
_TOLD = 4
_OTHER: dict[str, tuple[str, str]] = {
    ".xlsx": ("a spreadsheet", "save it as CSV in UTF-8"),
    ".xls": ("a spreadsheet", "save it as CSV in UTF-8"),
    ".ods": ("a spreadsheet", "save it as CSV in UTF-8"),
    ".arrow": ("an Arrow file", "write it with datasets.load_from_disk(FOLDER)[SPLIT].to_parquet('SPLIT.parquet')"),
    ".tar": ("an archive", "unpack it: photos beside .txt files are read"),
    ".tgz": ("an archive", "unpack it"),
    ".gz": ("an archive", "unpack it"),
    ".zip": ("an archive", "unpack it"),
    ".xml": ("an XML file", "write a table with the columns image and caption"),
}
"""Suffix of a file that no layout reads -> what it is, and what to do."""
Recognise = Callable[[Path], str]


def near_misses(path: Path, recognise: Recognise, keys: Mapping[str, tuple[str, ...]]) -> tuple[list[str], str]:
    """Say what nearly fitted.

    Args:
        path: a folder or file whose layout is not recognised.
        recognise: name of a folder's layout, "" for none; quick, since it is asked for folders inside and above.
        keys: layout -> keys of its JSON files.

    Returns:
        Sentences, each about one file or folder, the likeliest cause first; and what to do about the first of them, ""
        where none is known.
    """
    found = list(islice(_causes(path, recognise, keys), _TOLD))
    return [said for said, _ in found], next((do for _, do in found if do), "")


def _causes(path: Path, recognise: Recognise, keys: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        for folder in subfolders(path)[:_FOLDERS_TRIED]:
            if name := recognise(folder):
                yield f"{folder} has the layout {name}", f"--set data.path={shlex.quote(str(folder))}"
    files = [path] if path.is_file() else [one for one in sorted(path.iterdir()) if one.is_file()]
    if (path / "annotations").is_dir():
        files += [one for one in sorted((path / "annotations").iterdir()) if one.is_file()]
    images = [one for one in files if one.suffix.lower() in SUFFIXES]
    others = [one for one in files if one not in set(images)]
    for file in others[:_FILES_TRIED]:
        suffix = file.suffix.lower()
        if suffix in TABLES:
            yield from _table(file)
        elif suffix == ".json":
            yield _json(file, keys)
        elif suffix in _OTHER:
            what, do = _OTHER[suffix]
            yield f"{file.name} is {what}, which is not read", f"{do} ({file.name})"
    above = path.absolute().parent
    if images and path.is_dir() and (name := recognise(above)):
        yield f"the folder above, {above}, has the layout {name}", f"--set data.path={shlex.quote(str(above))}"
    if images:
        do = "add a table with the columns image and caption, or a .txt beside each image"
        yield f"{len(images)} images, and no words that belong to them", do
    elif path.is_dir():
        yield from _classes(path)


def _classes(path: Path) -> Iterator[tuple[str, str]]:
    """Folders that could be classes: with images deeper in them, or just one of them."""
    folders = [folder for folder in subfolders(path)[:_FOLDERS_TRIED] if _has_images(folder)]
    splits = [folder for folder in folders if split_of_folder(folder.name)]
    for folder in splits:
        classes = [one.name for one in subfolders(folder) if _has_images(one)]
        if len(classes) == 1:
            yield f"{folder.name} holds one class alone, {classes[0]}; class_folders needs two or more", ""
    if len(folders) > 1 and not splits:
        names = ", ".join(folder.name for folder in folders[:5])
        do = f"--set data.format=class_folders, where {names} are the classes"
        yield f"{names} hold images in folders of their own", do


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in SUFFIXES for file in islice(files_below(folder), 1000))


def _table(file: Path) -> Iterator[tuple[str, str]]:
    """What keeps a table from being one; plain text without cells is left out."""
    try:
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            reading = Reading([])
            read_rows(file, "", reading)
            rejected = reading.rejected[0] if reading.rejected else None
            if not reading.records:
                why = f": {rejected.source}: {rejected.text}" if rejected else ""
                yield f"{file.name} holds no usable row{why}", "repair the rows"
            return
        shape_of(file)
    except InputError as error:
        if file.suffix.lower() != ".txt" or any(mark in read_head(file, 4096) for mark in ",;\t|"):
            yield f"{file.name} is no table: {error.given.replace(str(file), 'it')}", _renaming(file) or error.do


def _renaming(file: Path) -> str:
    """How columns would have to be called, where the second line names an image in a column of another name."""
    try:
        names, delimiter = read_header(file)
        row = next(islice(read_table(file, delimiter), 1, None), (None, None))[1]
    except InputError:
        return ""
    has_names = not any(Path(name).suffix.lower() in SUFFIXES for name in names)
    if not has_names or not isinstance(row, list) or len(row) != len(names):
        return ""
    roles = {role: [name for name in names if column_word(name) in ROLES[role]] for role in ("image", "caption")}
    cells = {name: cell.strip() for name, cell in zip(names, row, strict=True) if "://" not in cell}
    images = [name for name, cell in cells.items() if Path(cell).suffix.lower() in SUFFIXES]
    if roles["image"] or len(images) != 1:
        return ""
    words = [name for name in names if name not in images] if not roles["caption"] and len(names) == 2 else []
    changes = [f"{images[0]!r} to image", *(f"{name!r} to caption" for name in words)]
    return f"rename the column {' and '.join(changes)}"


def _json(file: Path, keys: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    head = read_head(file)
    if not head.strip():
        return f"{file.name} is empty", "restore it"
    if '"conversations"' in head or '"messages"' in head:
        return f"{file.name} holds conversations, but no list of them", "write [{...}, {...}], or one a line as .jsonl"
    end = head.rstrip()[-1:]
    if end not in "]}":
        return f"{file.name} ends in the middle of its JSON", "fetch or write it again"
    lacking = {name: [key for key in wanted if f'"{key}"' not in head] for name, wanted in keys.items()}
    name = min(lacking, key=lambda one: len(lacking[one]) / len(keys[one]))
    if len(lacking[name]) == len(keys[name]):
        return f"{file.name} has no key of any layout", ""
    missing = ", ".join(repr(key) for key in lacking[name])
    return f"{file.name} is nearly {name}: it has no {missing or 'list in the right place'}", ""
