"""Layout "class_folders": `SPLIT/CLASS/picture.jpg`, or `CLASS/picture.jpg` without splits. The folder is the label."""

from collections.abc import Iterator
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import Rejected
from chiasm.data.sources.records import Reading, Record, canonical_split, choose_split

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SPLITS = ("train", "val", "test")


def recognises(path: Path) -> bool:
    """True where two or more folders, below the folder itself or below a split, hold pictures."""
    if not path.is_dir():
        return False
    return any(sum(1 for _ in _classes(root)) >= 2 for root in _split_folders(path).values() or [path])


def read(path: Path, split: str) -> Reading:
    """List the pictures of the wanted split, by class and name. Other files among them are noted, not counted."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder", "a folder of classes", "give the folder")
    folders = _split_folders(path)
    name = choose_split(split, folders, path) if folders else ""
    reading = Reading([path], tuple(folders))
    root = folders[name] if folders else path
    for folder in _folders(root):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in _SUFFIXES:
                relative = file.relative_to(path).as_posix()
                reading.records.append(Record(Source(str(file)), relative, label=folder.name, split=name))
            else:
                reading.notes.append(Rejected(Source(str(file)), "not_a_picture", "no picture's suffix; left out"))
    return reading


def _folders(path: Path) -> list[Path]:
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders named after a split that hold classes; a folder of pictures called "test" is a class."""
    named = {f.name: f for f in _folders(path) if canonical_split(f.name) in _SPLITS}
    return {name: folder for name, folder in named.items() if any(_classes(folder))}


def _classes(root: Path) -> Iterator[Path]:
    for folder in _folders(root):
        if any(file.suffix.lower() in _SUFFIXES for file in folder.iterdir()):
            yield folder
