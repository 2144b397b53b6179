"""Files of many layouts -> examples. One file a layout, one table that names them all."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from chiasm.core.errors import InputError, nearest
from chiasm.core.types import Example
from chiasm.data.ledger import Ledger
from chiasm.data.sources import (
    class_folders,
    coco_captions,
    data_jsonl,
    flickr8k_tokens,
    imagefolder,
    json_list,
    karpathy,
    llava_json,
    messages_jsonl,
    parquet,
    table,
    text_files,
    vqa_rad,
    vqav2,
)
from chiasm.data.sources.collect import collect
from chiasm.data.sources.nearly import near_misses

FORMATS: dict[str, ModuleType] = {
    "llava_json": llava_json,
    "messages_jsonl": messages_jsonl,
    "data_jsonl": data_jsonl,
    "flickr8k_tokens": flickr8k_tokens,
    "karpathy": karpathy,
    "vqav2": vqav2,
    "coco_captions": coco_captions,
    "vqa_rad": vqa_rad,
    "json_list": json_list,
    "table": table,
    "imagefolder": imagefolder,
    "parquet": parquet,
    "text_files": text_files,
    "class_folders": class_folders,
}
"""Name -> module with `recognises(path) -> bool` and `read(path, split) -> Reading`. "auto" takes the first that
recognises the path. A module of JSON files names their `KEYS`, so that a file that lacks one is told of."""


@dataclass(frozen=True, slots=True)
class FileData:
    """One split of a source: its examples, what was left out, the layout's name and the splits that exist."""

    examples: list[Example]
    ledger: Ledger
    format: str
    splits: tuple[str, ...]


def read_source(
    path: Path,
    split: str,
    format: str = "auto",  # noqa: A002  the config key is data.format
    images: str = "",
    languages: tuple[str, ...] = ("en",),
) -> FileData:
    """Read one split from files; images stay undecoded.

    Args:
        path: folder or file.
        split: name of a split; "val", "dev" and "validation" mean the same, and so do "train" and "training".
        format: a key of `FORMATS`, or "auto".
        images: folder that relative image paths start from; "" means the layout's usual places.
        languages: ISO 639-1 codes of the texts to keep; () keeps all. A text whose language is not stated is taken
            by its script ("zh", "ja", "ko"), else as "en".

    Raises:
        InputError: no such path, layout or split; or a file that cannot be understood as a whole. Rows that cannot
            be used are entered in the ledger instead.
    """
    path = Path(os.path.expanduser(path))
    if not (path.is_dir() or path.is_file()):
        said = "is neither a folder nor a regular file" if path.exists() else "does not exist"
        raise InputError(f"{path} {said}", "a folder or file with images and texts", "check data.path")
    name = _recognise(path) if format == "auto" else format
    if name not in FORMATS:
        given = f"data.format is {name!r}{nearest(name, FORMATS)}"
        raise InputError(given, "auto, " + ", ".join(FORMATS), "choose one of them")
    reading = FORMATS[name].read(path, split)
    if images:
        reading.folders = [_image_folder(images, path)]
    ledger = Ledger()
    examples, splits = collect(reading, path, split, languages, ledger)
    return FileData(examples, ledger, name, splits)


def _recognise(path: Path) -> str:
    for name, layout in FORMATS.items():
        if layout.recognises(path):
            return name
    keys = {name: layout.KEYS for name, layout in FORMATS.items() if hasattr(layout, "KEYS")}
    causes, do = near_misses(path, _near_layout, keys)
    if not causes:
        seen = path.name if path.is_file() else ", ".join(sorted(one.name for one in path.iterdir())[:8]) or "nothing"
        causes = [f"it holds {seen}"]
    raise InputError(
        f"the layout of {path} is not recognised:\n    " + "\n    ".join(causes),
        ", ".join(FORMATS) + " (docs/data.md shows each)",
        do or "name the layout with data.format, or write a table with the columns image and caption",
    )


def _near_layout(path: Path) -> str:
    """Name of the first layout that recognises a path by its own entries; "" where none does, or it is not listable."""
    try:
        return next((name for name, layout in FORMATS.items() if name != "text_files" and layout.recognises(path)), "")
    except OSError:
        return ""


def _image_folder(images: str, path: Path) -> Path:
    base, images = path if path.is_dir() else path.parent, os.path.expanduser(images)
    for folder in (base / images, Path(images)):
        if folder.is_dir():
            return folder
    raise InputError(f"data.images is {images!r}", f"a folder, absolute or relative to {base}", "check data.images")
