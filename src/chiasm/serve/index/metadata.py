"""Metadata of images: a table with one row per image, or a data set with captions.

A row belongs to the images whose path ends with its image column: `2021/cat.jpg` to `/photos/2021/cat.jpg`. Where
several rows match, the longest one is used.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Example, Source
from chiasm.data.ledger import Ledger
from chiasm.data.modalities.image import images_of
from chiasm.data.sources import read_source
from chiasm.data.sources.parsing import BadRowError, Rejected, clean_text, read_json_lines, read_table
from chiasm.data.sources.records import ROLES, canonical_split, column_word
from chiasm.data.sources.table import read_header
from chiasm.serve.index.store import OWN_KEYS, Value

TABLES = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
LONGEST_VALUE = 4096
"""Maximum number of characters of a value; the rest is cut off."""


class Described:
    """Metadata of images, by path.

    Args:
        path: CSV, TSV or JSON lines with an image column; or any layout that `chiasm train` reads, of which the first
            caption, the label and the split become metadata.

    Attributes:
        ledger: rows that could not be used.

    Raises:
        InputError: no image column, a column with the name of one of the index's own keys, or nothing readable.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.ledger = path, Ledger()
        self._rows: dict[str, dict[str, Value]] = {}
        self._used: set[str] = set()
        suffix = path.suffix.lower()
        if path.is_file() and suffix in TABLES:
            self._take(_table_rows(path))
        elif path.is_file() and suffix in JSON_LINES:
            self._take(read_json_lines(path))
        else:
            self._take_examples(path)

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, path: str) -> dict[str, Value] | None:
        """Metadata of the image at an absolute path; None where no row matches."""
        parts = path.strip("/").split("/")
        for end in (path, *("/".join(parts[start:]) for start in range(len(parts)))):
            if end in self._rows:
                self._used.add(end)
                return self._rows[end]
        return None

    def unused(self) -> int:
        """Number of rows that matched no image."""
        return len(self._rows) - len(self._used)

    def _take(self, rows: Iterator[tuple[Source, Mapping[str, Any] | Rejected]]) -> None:
        for source, row in rows:
            self.ledger.offer()
            if isinstance(row, Rejected):
                self.ledger.reject(*row)
                continue
            words = {column_word(name): name for name in row}
            column = next((words[word] for word in ROLES["image"] if word in words), None)
            if column is None:
                raise InputError(
                    f"{source} names no image", f"a column such as {', '.join(ROLES['image'][:4])}", "add one"
                )
            image_path = row[column]
            if not isinstance(image_path, str) or not image_path.strip():
                self.ledger.reject(source, "no_picture", "the row names no image")
                continue
            self._rows[os.path.normpath(image_path.strip())] = self._values(row, column, source)
            self.ledger.use()

    def _values(self, row: Mapping[str, Any], image_column: str, source: Source) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for name, value in row.items():
            if name == image_column or value is None or value == "":
                continue
            if name in OWN_KEYS:
                raise InputError(
                    f"{source} has a column {name!r}", "other names than " + ", ".join(OWN_KEYS), "rename it"
                )
            if not isinstance(value, str | int | float | bool):
                self.ledger.note(source, "not_plain", f"{name} is no text, number or boolean, and is left out")
                continue
            try:
                values[name] = clean_text(value)[:LONGEST_VALUE] if isinstance(value, str) else value
            except BadRowError as error:
                self.ledger.note(source, error.code, f"{name}: {error.text}")
        return values

    def _take_examples(self, path: Path) -> None:
        first = read_source(path, "train", languages=())
        names = ["train", *(name for name in first.splits if canonical_split(name) != "train")]
        parts = [first, *(read_source(path, name, languages=()) for name in names[1:])]
        is_drawn = any(entry.code == "split_drawn" for entry in first.ledger.entries)
        self.ledger = Ledger.added(part.ledger for part in parts)
        for name, part in zip(names, parts, strict=True):
            for example in part.examples:
                for image in images_of(example):
                    facts = _facts(example, "" if is_drawn else name)
                    self._rows[os.path.abspath(image.path or example.id)] = facts


def _facts(example: Example, split: str) -> dict[str, Value]:
    found: dict[str, Value] = {"caption": example.captions[0].text} if example.captions else {}
    found |= {"label": example.label} if example.label else {}
    return found | ({"split": split} if split else {})


def _table_rows(path: Path) -> Iterator[tuple[Source, Mapping[str, Any] | Rejected]]:
    names, delimiter = read_header(path)
    rows = read_table(path, delimiter)
    next(rows)
    for source, cells in rows:
        if isinstance(cells, Rejected):
            yield source, cells
        elif len(cells) != len(names):
            text = f"the row has {len(cells)} cells, the first line {len(names)}"
            yield source, Rejected(source, "column_count", text)
        else:
            yield source, {name: cell.strip() for name, cell in zip(names, cells, strict=True) if name}
