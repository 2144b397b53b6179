"""Layout "coco_captions": `captions_SPLIT.json` with the lists `images` and `annotations` (Chen et al. 2015).

The split is the one that the file is named after; a folder may hold one file for each. Where `instances_SPLIT.json`
stands beside it, its categories are the objects of the images (`Example.objects`), which POPE and CHAIR ask for.
"""

from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, has_keys, read_json_file
from chiasm.data.sources.records import (
    NamedImage,
    Reading,
    Record,
    canonical_split,
    captions_of,
    choose_split,
    image_folders,
    split_in_name,
    text_of,
)

_WHAT = "a COCO captions file: an object with the lists `images` (id, file_name) and `annotations` (image_id, caption)"

_WHAT_INSTANCES = "a COCO instances file: lists `categories` (id, name) and `annotations` (image_id, category_id)"

KEYS = ("images", "annotations", "caption", "file_name")
"""Keys that such a file has."""


def recognises(path: Path) -> bool:
    """True for such a file, and for a folder that holds one itself or in `annotations/`."""
    return bool(_files(path))


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's file. Images without a caption and captions without an image are rejected."""
    files = _files(path)
    if not files:
        raise InputError(f"{path} holds no COCO captions file", _WHAT, "give the path of the JSON file")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files):
        raise InputError(
            f"{path} holds several caption files for one split: {', '.join(file.name for file in files)}",
            "one file a split",
            "give the path of one file",
        )
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    reading = Reading(image_folders(by_split[name].parent), tuple(by_split) if name else ())
    content = read_json_file(by_split[name], _WHAT)
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{by_split[name]} has no list `{key}`", _WHAT, "check the file, or name another format")
    objects = {} if canonical_split(name) == "train" else _objects(by_split[name].parent, name, reading)
    _add(content, str(by_split[name]), name, objects, reading)
    return reading


def _objects(folder: Path, split: str, reading: Reading) -> dict[Any, tuple[str, ...]]:
    """Image id -> names of its categories, each once; empty without a file of that split.

    Not read for training: nothing measures its objects, and COCO's file has half a gigabyte.
    """
    files = [file for file in sorted(folder.glob("instances*.json")) if split_in_name(file.stem) == split]
    if len(files) > 1:
        given = f"{folder} holds several instance files for one split: {', '.join(file.name for file in files)}"
        raise InputError(given, "one file a split", "move the others away")
    found: dict[Any, dict[str, None]] = {}
    for file in files:
        content = read_json_file(file, _WHAT_INSTANCES)
        for key in ("categories", "annotations"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise InputError(f"{file} has no list `{key}`", _WHAT_INSTANCES, "check the file, or move it away")
        entries = [entry for entry in content["categories"] if isinstance(entry, dict)]
        names = {entry.get("id"): entry["name"] for entry in entries if isinstance(entry.get("name"), str)}
        for number, entry in enumerate(content["annotations"], 1):
            ids = (entry.get("image_id"), entry.get("category_id")) if isinstance(entry, dict) else (None, None)
            if not all(isinstance(one, int | str) for one in ids) or ids[1] not in names:
                text = "no object with image_id and the category_id of a named category"
                reading.reject(Source(f"{file} annotations", number), "entry", text)
                continue
            found.setdefault(ids[0], {})[names[ids[1]]] = None
    return {image: tuple(objects) for image, objects in found.items()}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        files = [path] if path.suffix == ".json" else []
    else:
        files = [file for folder in (path, path / "annotations") for file in sorted(folder.glob("*.json"))]
    return [file for file in files if has_keys(file, KEYS)]


def _add(content: dict[str, Any], file: str, split: str, objects: dict[Any, tuple[str, ...]], reading: Reading) -> None:
    captions: dict[Any, list[Any]] = {}
    first_place: dict[Any, int] = {}
    for number, entry in enumerate(content["annotations"], 1):
        key = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or "caption" not in entry:
            reading.reject(Source(f"{file} annotations", number), "entry", "no object with image_id and caption")
            continue
        captions.setdefault(key, []).append(entry["caption"])
        first_place.setdefault(key, number)
    for number, entry in enumerate(content["images"], 1):
        source = Source(f"{file} images", number)
        try:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
                raise BadRowError("entry", "no object with id and file_name")
            texts = captions.pop(entry["id"], [])
            name = text_of(entry.get("file_name"), "image").strip()
            if not name:
                raise BadRowError("no_image", "the entry has no file_name")
            own = objects.get(entry["id"], ())
            record = Record(source, (NamedImage(name),), captions=captions_of(texts), split=split, objects=own)
            reading.records.append(record)
        except BadRowError as error:
            reading.reject(source, error.code, error.text)
    for key, texts in captions.items():
        place = Source(f"{file} annotations", first_place[key])
        reading.reject(place, "unknown_image", f"{len(texts)} captions for image_id {key!r}, which is not in `images`")
