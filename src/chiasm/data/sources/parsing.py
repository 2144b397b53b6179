"""Strict readers of JSON, JSON lines and tables: a bad row is reported with its line, and the rows after it live on."""

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chiasm.core.errors import InputError
from chiasm.core.types import Source

MAX_TEXT_BYTES = 65_536
MAX_ROW_BYTES = 16 * 2**20
_LONGEST_QUOTED_LINES = 200
"""Lines that one quoted cell may span; it bounds the search for a quote that was never closed."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SPACE = re.compile(r"[^\S ]+")
_HIDDEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Control characters, zero-width space, marks and overrides of direction. The zero-width joiner stays: emoji and
several scripts need it."""


class Rejected(NamedTuple):
    """A row that cannot be used, found while reading."""

    source: Source
    code: str
    text: str


class BadRowError(Exception):
    """Raised inside a reader for the row in hand and turned into a `Rejected` there; it never leaves this room."""

    def __init__(self, code: str, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(text)


def clean_text(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC) on one line without control characters or terminal escapes.

    Raises:
        BadRowError: "encoding" for half of a surrogate pair, "text_too_long" above 64 KiB.
    """
    # Nearly every text is clean; `isprintable` is False for all that is stripped below and for surrogates.
    if text.isprintable() and len(text) * 4 <= MAX_TEXT_BYTES and unicodedata.is_normalized("NFC", text):
        return text.strip(" \ufe0f") and text.strip()
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRowError("encoding", "the text holds half of a surrogate pair") from None
    if size > MAX_TEXT_BYTES:
        raise BadRowError("text_too_long", f"the text has {size} bytes; at most {MAX_TEXT_BYTES} are read")
    visible = _HIDDEN.sub("", _SPACE.sub(" ", _ANSI.sub("", text)))
    cleaned = unicodedata.normalize("NFC", visible).strip()
    return cleaned if cleaned.strip("\u200c\u200d\ufe0f ") else ""


def clean_lines(text: str) -> str:
    """Return a text of several lines, each as `clean_text` leaves it but for what it is indented by.

    Raises:
        BadRowError: as `clean_text`, of the whole text.
    """
    if len(text) * 4 > MAX_TEXT_BYTES and (size := len(text.encode("utf-8", "replace"))) > MAX_TEXT_BYTES:
        raise BadRowError("text_too_long", f"the text has {size} bytes; at most {MAX_TEXT_BYTES} are read")
    lines = text.splitlines()
    return "\n".join(line[: len(line) - len(line.lstrip(" \t"))] + clean_text(line) for line in lines).strip()


def parse_json(text: str) -> Any:
    """Parse strictly: no duplicate key in an object, no NaN or infinity, no bottomless nesting.

    Raises:
        BadRowError: with the cause.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRowError("json", f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise BadRowError("json", str(error)) from None
    except RecursionError:
        raise BadRowError("json", "nested too deeply") from None


def read_json_file(path: Path, what: str) -> Any:
    """Read a whole strict JSON file; `what` names it in the InputError."""
    _check_regular(path)
    try:
        return parse_json(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8", f"{what} in UTF-8", "convert the file") from None
    except BadRowError as error:
        raise InputError(f"{path}: {error.text}", what, "restore or rewrite the file") from None


def read_lines(path: Path) -> Iterator[tuple[Source, str | Rejected]]:
    """Yield each line that is not blank with its place, without its line end; a line that is no UTF-8 as `Rejected`."""
    name = str(path)
    _check_regular(path)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            source = Source(name, number)
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if len(raw) > MAX_ROW_BYTES:
                yield source, Rejected(source, "row_too_long", f"the line has {len(raw)} bytes")
                continue
            try:
                line = raw.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield source, Rejected(source, "encoding", f"byte {error.start} of the line is not UTF-8")
                continue
            if line.strip():
                yield source, line


def read_json_lines(path: Path) -> Iterator[tuple[Source, dict[str, Any] | Rejected]]:
    """Yield the object on each line with its place; lines that hold none as `Rejected`."""
    for source, line in read_lines(path):
        if isinstance(line, Rejected):
            yield source, line
            continue
        try:
            value = parse_json(line)
        except BadRowError as error:
            yield source, Rejected(source, error.code, error.text)
            continue
        if isinstance(value, dict):
            yield source, value
        else:
            yield source, Rejected(source, "json", f"the line holds a {type(value).__name__} instead of an object")


def read_table(path: Path, delimiter: str) -> Iterator[tuple[Source, list[str] | Rejected]]:
    """Yield the cells of each row with its place (the first line, where a quoted cell spans several).

    With a comma or semicolon, quotes work as in RFC 4180. With a tab or bar they are ordinary characters. A quote
    that is never closed costs its own line alone: `csv.reader` would swallow the rows that follow.
    """
    lines = list(read_lines(path))
    position = 0
    while position < len(lines):
        source, line = lines[position]
        position += 1
        if isinstance(line, Rejected):
            yield source, line
        elif delimiter in "\t|" or '"' not in line:
            yield source, line.split(delimiter)
        else:
            cells, extra = _quoted_row(line, lines[position : position + _LONGEST_QUOTED_LINES], delimiter)
            position += extra
            yield source, cells or Rejected(source, "quote", "a quote is not closed, or is followed by other text")


def _quoted_row(
    line: str, following: list[tuple[Source, str | Rejected]], delimiter: str
) -> tuple[list[str] | None, int]:
    """Return the row's cells and the number of further lines that it took; None where its quotes do not work out."""
    for extra in range(len(following) + 1):
        try:
            return next(csv.reader([line], delimiter=delimiter, strict=True)), extra
        except csv.Error as error:
            if "unexpected end of data" not in str(error) or extra == len(following):
                return None, 0
            after = following[extra][1]
            if isinstance(after, Rejected):
                return None, 0
            line += "\n" + after
    return None, 0


def _check_regular(path: Path) -> None:
    """A pipe would be waited for, and a folder ends in the system's words."""
    if not path.is_file():
        raise InputError(f"{path} is no regular file", "a file that can be read from its beginning", "take it away")


def read_head(path: Path, size: int = 65_536) -> str:
    """Return the first and the last `size` bytes as text, enough to recognise a layout without reading it all."""
    with open(path, "rb") as file:
        head = file.read(size)
        end = file.seek(0, 2)
        file.seek(max(len(head), end - size))
        return (head + b"\n" + file.read()).decode("utf-8-sig", "replace")


def has_keys(file: Path, keys: Iterable[str]) -> bool:
    """Whether a JSON file names all of these keys near its beginning or end; False for what is no regular file."""
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    text = read_head(file)
    return all(f'"{key}"' in text for key in keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return result


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
