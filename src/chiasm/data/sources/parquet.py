"""Layout "parquet": tables with the images in them, as Hugging Face writes data sets, or with their paths.

The image column holds encoded bytes, objects with `bytes` and `path`, or paths; the others are understood as those of
a table (`records.ROLES`), and class numbers get the names that Hugging Face stores beside them. Files are named after
their split (`train-00000-of-00002.parquet`) or lie in a folder of that name; several of one split are its parts.

Images inside a file are copied, each once, into a temporary file without a name (in TMPDIR), which the system removes
when nothing refers to it any more. Needs pyarrow (extra `parquet`).
"""

import json
import os
import tempfile
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.files import sha256_bytes
from chiasm.core.types import ImageRef, Source
from chiasm.data.image import MAX_BYTES, load_image
from chiasm.data.sources.parsing import BadRowError, Rejected
from chiasm.data.sources.records import (
    ROLES,
    Columns,
    NamedImage,
    Reading,
    Record,
    choose_split,
    column_word,
    image_folders,
    split_in_name,
    split_of_folder,
)

_SUFFIX = ".parquet"
_ROWS_AT_ONCE = 64
_WHAT = "a complete Parquet file"


def recognises(path: Path) -> bool:
    """True for a file `*.parquet`, and for a folder that holds one, itself or one folder deeper."""
    return bool(_files(path))


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's files, row by row.

    Raises:
        InputError: no such file or split, damage anywhere in a file, or columns that cannot be understood.
        MissingExtraError: pyarrow is not installed.
    """
    files = _files(path)
    if not files:
        raise InputError(f"{path} holds no {_SUFFIX} file", _WHAT, "give the file, or the folder that holds it")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_in_name(file.stem) or split_of_folder(file.parent.name), []).append(file)
    unnamed = by_split.pop("", [])
    reading = Reading(image_folders(files[0].parent), tuple(by_split))
    name = choose_split(split, by_split, path) if by_split else ""
    images = _ExtractedImages()
    for file in by_split[name] if by_split else unnamed:
        _read_file(file, name, reading, images)
    if not by_split:
        reading.set_splits_of_records()
    for file in unnamed if by_split else []:
        reading.notes.append(Rejected(Source(str(file)), "no_split", "the file is named after no split; left out"))
    return reading


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == _SUFFIX else []
    found = [file for pattern in ("*", "*/*") for file in sorted(path.glob(f"{pattern}{_SUFFIX}"))]
    return [file for file in found if file.is_file() and not file.parent.name.startswith(".")]


class _Spool:
    """A temporary file that has no name, and that is closed with the last image that refers to it."""

    def __init__(self) -> None:
        self._descriptor, name = tempfile.mkstemp(prefix="chiasm-images-")
        os.unlink(name)
        weakref.finalize(self, os.close, self._descriptor)
        self._end = 0

    def add(self, content: bytes) -> int:
        """Append and return the place of the first byte."""
        start, written = self._end, 0
        while written < len(content):
            written += os.pwrite(self._descriptor, content[written:], start + written)
        self._end += len(content)
        return start

    def load(self, start: int, size_bytes: int, source: str) -> np.ndarray:
        """Decode the image at a place."""
        return load_image(os.pread(self._descriptor, size_bytes, start), source)


class _ExtractedImages:
    """Encoded images, each kept once."""

    def __init__(self) -> None:
        self._spool = _Spool()
        self._known: dict[str, ImageRef] = {}

    def add(self, content: bytes, source: Source) -> ImageRef:
        """Keep an image and refer to it."""
        key = sha256_bytes(content)
        if key not in self._known:
            load = partial(self._spool.load, self._spool.add(content), len(content), str(source))
            self._known[key] = ImageRef(load, partial(str, key))
        return self._known[key]


def _read_file(file: Path, split: str, reading: Reading, images: _ExtractedImages) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            table = _Table(file, opened.schema_arrow)
            number = 0
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=table.columns.names):
                for row in batch.to_pylist():
                    number += 1
                    table.add(row, Source(str(file), number), split, reading, images)
    except (pyarrow.lib.ArrowException, UnicodeDecodeError, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{file} cannot be read: {said[:200]}", _WHAT, "fetch or write the file again") from None


class _Table:
    """How the rows of a file become records.

    Args:
        file: for messages.
        schema: its `pyarrow.Schema`.
    """

    def __init__(self, file: Path, schema: Any) -> None:
        names = list(schema.names)
        inside = [name for name in names if _holds_bytes(schema.field(name).type)]
        if len(inside) > 1:
            inside = [name for name in inside if column_word(name) in ROLES["image"]] or inside
        self.image = inside[0] if len(inside) == 1 else ""
        if self.image:
            # The name of the file that the image came from is no second image.
            names = [name for name in names if name == self.image or column_word(name) not in ROLES["image"]]
        plain = ["image" if name == self.image else name for name in names]
        known = Columns(plain, str(file))
        wanted = {*known.by_role.values(), *(name for _, name in known.captions_in)}
        self.columns = Columns([name for name in plain if name in wanted], str(file))
        self.columns.names = [self.image if name == "image" and self.image else name for name in self.columns.names]
        self.classes = _class_names(schema)

    def add(self, row: dict[str, Any], source: Source, split: str, reading: Reading, images: _ExtractedImages) -> None:
        """Add the record of one row, or the reason why it has none."""
        try:
            reading.add(self._record(row, source, images), split)
        except BadRowError as error:
            reading.reject(source, error.code, error.text)

    def _record(self, row: dict[str, Any], source: Source, images: _ExtractedImages) -> Record:
        values = {name: _plain(value, self.classes.get(name, ())) for name, value in row.items()}
        if not self.image:
            return self.columns.record(source, values)
        value = values.pop(self.image)
        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        values["image"] = name if isinstance(name, str) and name else f"row {source.row}"
        if content is None and isinstance(name, str) and name:
            return self.columns.record(source, values)
        if not content:
            raise BadRowError("no_image", "the row holds no image")
        if len(content) > MAX_BYTES:
            raise BadRowError("too_many_bytes", f"the image has {len(content)} bytes; at most {MAX_BYTES} are read")
        named = NamedImage(values["image"], images.add(content, source))
        return replace(self.columns.record(source, values), images=(named,))


def _holds_bytes(kind: Any) -> bool:
    """Whether a column holds encoded images: bytes, or objects with a field `bytes`."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Column -> names of its class numbers, as Hugging Face stores them in the file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _plain(value: Any, classes: tuple[str, ...]) -> Any:
    """A value as JSON would hold it: class numbers by name, whole floats as integers, not-a-number as nothing."""
    if classes and isinstance(value, int) and not isinstance(value, bool):
        return classes[value] if 0 <= value < len(classes) else None
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value
