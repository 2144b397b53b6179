"""Layout "karpathy": `dataset_*.json` with images, their sentences and split (Karpathy and Fei-Fei 2015).

COCO's fourth split "restval" stays a split of its own; papers usually train on train and restval together.
"""

from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, has_keys, read_json_file
from chiasm.data.sources.records import NamedImage, Reading, Record, captions_of, read_entries, text_of

_WHAT = "a Karpathy file: an object with a list `images`, each with filename, split and sentences"

KEYS = ("images", "sentences", "filename")
"""Keys that such a file has."""


def recognises(path: Path) -> bool:
    """True for such a file, and for a folder with exactly one `dataset*.json` that is one."""
    return _file(path) is not None


def read(path: Path, split: str) -> Reading:
    """Read every image entry; one that lacks its parts is rejected by its number in the list."""
    file = _file(path)
    if file is None:
        raise InputError(f"{path} holds no Karpathy file", _WHAT, "give the path of the JSON file")
    content = read_json_file(file, _WHAT)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise InputError(f"{file} has no list `images`", _WHAT, "check the file, or name another format")
    return read_entries(file, images, _record)


def _file(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted(path.glob("dataset*.json")) if path.is_dir() else []
    fitting = [file for file in files if has_keys(file, KEYS)]
    return fitting[0] if len(fitting) == 1 else None


def _record(entry: Any, source: Source) -> Record:
    if not isinstance(entry, dict) or not isinstance(entry.get("sentences"), list):
        raise BadRowError("entry", "the entry is no object with a list of sentences")
    name = text_of(entry.get("filename"), "image").strip()
    if not name:
        raise BadRowError("no_image", "the entry names no image")
    folder = text_of(entry.get("filepath"), "image").strip()
    raw = [sentence.get("raw") if isinstance(sentence, dict) else sentence for sentence in entry["sentences"]]
    return Record(
        source,
        (NamedImage(f"{folder}/{name}" if folder else name),),
        captions=captions_of([text for text in raw if text is not None]),
        split=text_of(entry.get("split"), "split").strip(),
    )
