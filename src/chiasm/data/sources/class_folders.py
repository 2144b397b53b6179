"""Layout "class_folders": `SPLIT/CLASS/image.jpg`, or `CLASS/image.jpg` without splits. The folder is the label.

Images may lie deeper in a class's folder. A folder that is named after a split is a class in no case.
"""

from collections.abc import Iterator
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.image import SUFFIXES
from chiasm.data.sources.parsing import Rejected
from chiasm.data.sources.records import NamedImage, Reading, Record, choose_split, split_of_folder
from chiasm.data.sources.walking import files_below, subfolders


def recognises(path: Path) -> bool:
    """True where two or more folders, below the folder itself or below a split, hold images."""
    if not path.is_dir():
        return False
    return any(sum(1 for _ in _classes(root)) >= 2 for root in _split_folders(path).values() or [path])


def read(path: Path, split: str) -> Reading:
    """List the images of the wanted split, by class and name. Other files among them are noted, not counted.

    Raises:
        InputError: no folder; or folders that are named after splits, where none of them holds classes.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder", "a folder of classes", "give the folder")
    folders = _split_folders(path)
    bare = [f for f in _classes(path) if split_of_folder(f.name) and f.name not in folders]
    if bare and not folders:
        raise _splits_without_classes(path, [folder.name for folder in bare])
    name = choose_split(split, folders, path) if folders else ""
    reading = Reading([path], tuple(folders))
    for folder in bare:
        text = "the folder is named after a split and holds images without a class; left out"
        reading.notes.append(Rejected(Source(str(folder)), "no_class", text))
    for folder in subfolders(folders[name] if folders else path):
        for file in files_below(folder):
            if file.suffix.lower() in SUFFIXES:
                relative = file.relative_to(path).as_posix()
                reading.records.append(
                    Record(Source(str(file)), (NamedImage(relative),), label=folder.name, split=name)
                )
            else:
                reading.notes.append(Rejected(Source(str(file)), "not_a_picture", "no image's suffix; left out"))
    return reading


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders named after a split that hold classes."""
    return {f.name: f for f in subfolders(path) if split_of_folder(f.name) and any(_classes(f))}


def _classes(root: Path) -> Iterator[Path]:
    for folder in subfolders(root):
        if any(file.suffix.lower() in SUFFIXES for file in folder.iterdir()):
            yield folder


def _splits_without_classes(path: Path, names: list[str]) -> InputError:
    """A folder "train" whose images lie in it directly is a split without words, and no class called "train"."""
    said = "are named after splits" if len(names) > 1 else "is named after a split"
    return InputError(
        f"{path}: {', '.join(names)} {said} and hold{'' if len(names) > 1 else 's'} images directly, "
        "so they are no classes, and no words belong to the images",
        f"{names[0]}/CLASS/image.jpg; or {names[0]}/metadata.csv with the columns file_name and caption",
        "sort the images into folders of classes, or add tables; rename a folder that really is a class",
    )
