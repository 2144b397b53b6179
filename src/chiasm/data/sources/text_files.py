"""Layout "text_files": each image has a text file of the same name, with one caption a line.

`cat.jpg` and `cat.txt` lie beside each other, at any depth; or images and texts lie in trees of their own, such as
`images/a/cat.jpg` and `captions/a/cat.txt`. The first folder that is named after a split says the split.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Source
from chiasm.data.image import SUFFIXES
from chiasm.data.script import language_of
from chiasm.data.sources.parsing import Rejected, read_lines
from chiasm.data.sources.records import IMAGE_FOLDERS, NamedImage, Reading, Record, choose_split, split_of_folder
from chiasm.data.sources.walking import files_below

_TEXTS = (".txt", ".caption")
_TREES = frozenset({*map(str.lower, IMAGE_FOLDERS), "caption", "captions", "text", "texts", "txt", "label", "labels"})
"""Folders that hold all images or all texts; they are left out when the two are compared."""
_LEAST_SHARE = 10
"""The layout is recognised where one image in so many has a text file."""
_FILES_LOOKED_AT = 300_000
"""Files below a folder among which pairs are looked for to recognise the layout."""
_NUMBERS = re.compile(r"[\d.,;\s+-]+")


@dataclass(slots=True)
class _Pair:
    """Files of one name."""

    split: str
    images: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)


def recognises(path: Path) -> bool:
    """True for a folder where one image in ten or more has a text file of its name."""
    pairs = _pairs(path, _FILES_LOOKED_AT) if path.is_dir() else []
    full = sum(bool(pair.images and pair.texts) for pair in pairs)
    return full > 0 and full * _LEAST_SHARE >= sum(bool(pair.images) for pair in pairs)


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's captions. An image without a text file, and one without an image, are rejected.

    Raises:
        InputError: no such pair of files, no such split, or text files that hold numbers alone.
    """
    pairs = _pairs(path) if path.is_dir() else []
    if not any(pair.images and pair.texts for pair in pairs):
        allowed = "cat.jpg and cat.txt beside each other, one caption a line"
        raise InputError(f"{path} has no image with a text file of its name", allowed, "check the names")
    splits = tuple(dict.fromkeys(pair.split for pair in pairs if pair.split))
    name = choose_split(split, splits, path) if splits else ""
    reading = Reading([path.absolute()], splits)
    for pair in pairs:
        if pair.split == name or (splits and not pair.split):
            _add(pair, path, reading)
    texts = [caption.text for record in reading.records for caption in record.captions]
    if texts and all(_NUMBERS.fullmatch(text) for text in texts):
        raise InputError(
            f"the text files of {path} hold numbers alone, such as {texts[0][:60]!r}",
            "captions; boxes for a detector (YOLO) are not read",
            "write a caption into each text file",
        )
    return reading


def _pairs(path: Path, at_most: int | None = None) -> list[_Pair]:
    """Images and texts below a folder, brought together by their place and name, in the order of the files."""
    pairs: dict[tuple[str, ...], _Pair] = {}
    for file in islice(files_below(path), at_most):
        suffix = file.suffix.lower()
        if suffix not in SUFFIXES and suffix not in _TEXTS:
            continue
        folders = [part for part in file.relative_to(path).parts[:-1] if part.lower() not in _TREES or _is_split(part)]
        found = next((part for part in folders if _is_split(part)), "")
        pair = pairs.setdefault((*folders, file.stem), _Pair(found))
        (pair.images if suffix in SUFFIXES else pair.texts).append(file)
    return list(pairs.values())


def _is_split(folder: str) -> bool:
    return bool(split_of_folder(folder))


def _add(pair: _Pair, path: Path, reading: Reading) -> None:
    """Add the record of one name, or the reason why there is none."""
    if not pair.images:
        if len(pair.texts[0].stem) and pair.texts[0].stem.lower().startswith(("readme", "license", "licence")):
            reading.notes.append(Rejected(Source(str(pair.texts[0])), "no_picture_of_the_name", "left out"))
        else:
            text = f"there is no image called {pair.texts[0].stem!r}"
            reading.reject(Source(str(pair.texts[0])), "missing_image", text)
        return
    if len(pair.images) > 1 or len(pair.texts) > 1:
        names = ", ".join(file.relative_to(path).as_posix() for file in [*pair.images, *pair.texts])
        reading.reject(Source(str(pair.images[0])), "ambiguous_name", f"several files of one name: {names}")
        return
    image = pair.images[0].relative_to(path).as_posix()
    source = Source(str(pair.texts[0] if pair.texts else pair.images[0]))
    captions = tuple(_captions(pair.texts[0], reading)) if pair.texts else ()
    if pair.texts and not captions:
        reading.reject(source, "empty_caption", "the text file holds no caption")
        return
    reading.records.append(Record(source, (NamedImage(image),), captions=captions, split=pair.split))


def _captions(file: Path, reading: Reading) -> Iterator[Caption]:
    for _, line in read_lines(file):
        if isinstance(line, Rejected):
            reading.notes.append(line)
        else:
            yield Caption(line, language_of(line))
