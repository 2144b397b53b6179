"""Rows that hold a conversation, as JSON lists and JSON lines: shared by the layouts that differ in their keys.

A turn has a role (`from` or `role`) and words (`value` or `content`); its words are a text, in which `<image>` stands
where an image is shown, or a list of parts, of which some are images. Images without a place of their own come from the
row's `image` or `images`, in their order.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_PLACEHOLDER, Role, Source, Turn
from chiasm.data.conversations import TurnsError, check_turns
from chiasm.data.image import MAX_BYTES
from chiasm.data.image_refs import image_ref_from_bytes
from chiasm.data.sources.parsing import (
    BadRowError,
    Rejected,
    clean_lines,
    read_head,
    read_json_file,
    read_json_lines,
)
from chiasm.data.sources.records import (
    ROLES,
    NamedImage,
    Reading,
    Record,
    choose_split,
    image_folders,
    split_in_name,
    text_of,
)

SPEAKERS: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
"""Name of a side in the files -> its role."""
OTHER_SENSES = ("video", "videos", "audio", "audios")
"""Keys of rows whose turns are about what is not read; a row without its video would teach to make things up."""
_LINES = (".jsonl", ".ndjson")
_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w=.-]+)*;base64,", re.ASCII)


def files_with(path: Path, key: str) -> list[Path]:
    """JSON lists and JSON lines whose objects have a list under `key`: the file itself, or those in a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in files if file.suffix.lower() in (".json", *_LINES) and _has_lists(file, key)]


def read_rows(path: Path, split: str, key: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one. A bad row is reported with its number.

    Args:
        path: file or folder.
        split: the wanted one.
        key: of a row's list of turns.

    Raises:
        InputError: no such file, several that no split tells apart, or one that is no list of rows.
    """
    what = f"a JSON list, or JSON lines, of objects with {key!r}"
    files = files_with(path, key) or ([path] if path.is_file() else [])
    if not files:
        raise InputError(f"{path} holds no file of conversations", what, "give the path of the file")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files) or (len(files) > 1 and "" in by_split):
        names = ", ".join(file.name for file in files)
        do = f"give one file, such as --set data.path={files[0]}"
        raise InputError(f"{path} holds several files of conversations: {names}", "one, or one a split", do)
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    file = by_split[name]
    reading = Reading(image_folders(file.parent), tuple(by_split) if name else ())
    for source, row in _rows(file, what):
        try:
            if isinstance(row, Rejected):
                reading.rejected.append(row)
            else:
                reading.add(record_of(row, source, key), name)
        except BadRowError as error:
            reading.reject(source, error.code, error.text)
        except TurnsError as error:
            reading.reject(source, error.code, error.reason)
    if not name:
        reading.set_splits_of_records()
    return reading


def record_of(row: Any, source: Source, key: str) -> Record:
    """Understand one row.

    Raises:
        BadRowError: a part has the wrong type, or is of a sense that is not read.
        TurnsError: the turns are no conversation about the row's images.
    """
    if not isinstance(row, dict):
        raise BadRowError("json", f"a {type(row).__name__} stands where an object belongs")
    if sense := next((name for name in OTHER_SENSES if row.get(name)), ""):
        raise BadRowError("other_sense", f"the row has a {sense}, which is not read")
    listed = row.get(key)
    if not isinstance(listed, list):
        raise BadRowError("turns", f"{key!r} is no list of turns")
    shown = _Shown()
    turns = [_turn(item, shown, number) for number, item in enumerate(listed, 1)]
    if system := clean_lines(text_of(row.get("system"), "turns")):
        turns.insert(0, Turn("system", system))
    images = shown.in_order(_images(row))
    group = next((row[name] for name in ROLES["group"] if row.get(name) is not None), None)
    return Record(
        source,
        images,
        text_of(row.get("id"), "id").strip(),
        group=text_of(group, "group").strip(),
        split=text_of(row.get("split"), "split").strip(),
        turns=check_turns(turns, len(images), source),
        language=text_of(row.get("language"), "language").strip().lower(),
    )


@dataclass(slots=True)
class _Shown:
    """Images in the order in which the turns show them; None where the row's own list has the name."""

    found: list[NamedImage | None] = field(default_factory=list)

    def in_order(self, listed: list[NamedImage]) -> tuple[NamedImage, ...]:
        """All images; those of the list that no turn shows stand last."""
        rest = iter(listed)
        shown = [next(rest, None) if image is None else image for image in self.found]
        return (*filter(None, shown), *rest)


def _turn(item: Any, shown: _Shown, number: int) -> Turn:
    if not isinstance(item, dict):
        raise BadRowError("turns", f"turn {number} is no object")
    speaker = item.get("from", item.get("role"))
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        said = f"turn {number} is of {speaker!r}; known are {', '.join(SPEAKERS)}"
        raise BadRowError("unknown_role", said)
    content = item.get("value", item.get("content"))
    parts = content if isinstance(content, list) else [content]
    text = "\n".join(_part(part, shown, number) for part in parts)
    return Turn(SPEAKERS[speaker], clean_lines(text))


def _part(part: Any, shown: _Shown, number: int) -> str:
    """The text of a part, with placeholders for what it shows."""
    if isinstance(part, dict) and part.get("type") in ("image", "image_url"):
        shown.found.append(_image_in(part))
        return IMAGE_PLACEHOLDER
    if isinstance(part, dict):
        if part.get("type") != "text":
            raise BadRowError(
                "other_sense", f"turn {number} has a part of type {part.get('type')!r}, which is not read"
            )
        part = part.get("text")
    text = text_of(part, "turns")
    shown.found += [None] * text.count(IMAGE_PLACEHOLDER)
    return text


def _image_in(part: Mapping[str, Any]) -> NamedImage | None:
    """The image that a part names; None where it names none, and the row's list does."""
    named = next((part[name] for name in ("image_url", "image", "path", "url") if part.get(name) is not None), None)
    if isinstance(named, dict):
        named = next((named[name] for name in ("url", "path") if named.get(name) is not None), None)
    return None if named is None else _named(named)


def _images(row: Mapping[str, Any]) -> list[NamedImage]:
    given = [row[name] for name in ("image", "images") if row.get(name) is not None]
    if len(given) > 1:
        raise BadRowError("image", "the row has both `image` and `images`")
    return [_named(one) for value in given for one in (value if isinstance(value, list) else [value])]


def _named(value: Any) -> NamedImage:
    """An image by its path, or inside a `data:` URI.

    Raises:
        BadRowError: an empty name, other than a text, or content that cannot be read.
    """
    if isinstance(value, dict):
        value = value.get("path")
    text = text_of(value, "image").strip()
    if not text:
        raise BadRowError("no_image", "an image has no name")
    uri = _DATA_URI.match(text)
    if uri is None:
        return NamedImage(text)
    try:
        content = base64.b64decode(text[uri.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise BadRowError("embedded_image", "an image in a data: URI is no base64") from None
    if not content or len(content) > MAX_BYTES:
        said = f"an image in a data: URI has {len(content)} bytes; 1 to {MAX_BYTES} are read"
        raise BadRowError("embedded_image", said)
    return NamedImage("image", image_ref_from_bytes(content, "an image in a data: URI"))


def _rows(file: Path, what: str) -> Iterator[tuple[Source, Any]]:
    """Each row with its place: the line, or the number in the list."""
    if file.suffix.lower() in _LINES:
        yield from read_json_lines(file)
        return
    content = read_json_file(file, what)
    if not isinstance(content, list):
        raise InputError(f"{file} holds no list", what, "check the file, or name another format")
    for number, row in enumerate(content, 1):
        yield Source(str(file), number), row


def _has_lists(file: Path, key: str) -> bool:
    """Whether a file begins as such a list or such lines, and names the key near its beginning or end."""
    if not file.is_file():
        return False
    text = read_head(file)
    start = r"\s*\{" if file.suffix.lower() in _LINES else r"\s*\[\s*\{"
    return bool(re.match(start, text) and re.search(rf'"{key}"\s*:\s*\[', text))
