"""Index storage: the tables of an index, for any database.

Tables, with what one row is: `header` (a fact about the index), `items` (an image), `vectors` (an item's vector),
`facts` (a key of an item's metadata), `rejected` (a file that cannot be used). An image that changes becomes a new item
with a new number, and numbers are never used again, so the vector of a number never changes.

SQL is written once for all databases, with "?" for parameters, and never contains a value itself.
"""

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError, nearest
from chiasm.serve.index.header import Header
from chiasm.serve.index.kinds import FLOAT32, Kind, as_kind

Value = str | int | float | bool
Vector = npt.NDArray[np.float32]
OWN_KEYS = ("path", "folder", "size")
"""Filter keys that are columns of `items`, not metadata."""
IN_ONE_QUESTION = 500
"""Maximum number of values in one IN (...); SQLite takes at most 32,766 parameters."""
MARGIN = 16
"""Further candidates that are scored again in float64, so that float32 rounding does not decide the order."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image to be written: `vector` is float32 [e] of unit length, `state` comes from `file_state`."""

    path: str
    content: str
    size_bytes: int
    state: str
    vector: Vector
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """One stored image."""

    number: int
    path: str
    content: str
    size_bytes: int
    metadata: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Refused:
    """One file that cannot be used; `code` is the ledger's."""

    path: str
    state: str
    code: str
    text: str


@dataclass(slots=True)
class Change:
    """What one atomic transaction writes.

    Attributes:
        put: new and changed images; an existing item of the same path is removed.
        touch: (state, path) of files that were rewritten with the same content.
        describe: (path, metadata) of items of which only the metadata change.
        remove: paths to remove.
        refuse: files that cannot be used; an existing item of the same path is removed.
    """

    put: list[Entry] = field(default_factory=list)
    touch: list[tuple[str, str]] = field(default_factory=list)
    describe: list[tuple[str, Mapping[str, Value]]] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    refuse: list[Refused] = field(default_factory=list)


class Store(ABC):
    """One open database."""

    where: str
    """Name of the index in messages."""
    dim: int
    """Width of a vector; 0 before the header is written."""
    kind: Kind
    """How vectors are kept (`index.kinds`)."""

    def __init__(self) -> None:
        self._lock, self._is_within = threading.RLock(), False

    @contextmanager
    def transaction(self, writes: bool = False) -> Iterator[None]:
        """A consistent view of the tables; with `writes`, changes are committed at the end of the block or not at all.

        A transaction within another one is part of it.
        """
        with self._lock, self._teaching():
            if self._is_within:
                yield
                return
            with self._transaction(writes):
                self._is_within = True
                try:
                    yield
                finally:
                    self._is_within = False

    # --- methods of each database ---------------------------------------------------------------------------

    @abstractmethod
    def _transaction(self, writes: bool) -> AbstractContextManager[None]:
        """Begin and commit a transaction; an exception rolls it back."""

    @abstractmethod
    def _teaching(self) -> AbstractContextManager[None]:
        """Convert errors of the database into errors of chiasm."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Lock the index for this process; a second writer is refused."""

    @abstractmethod
    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""

    @abstractmethod
    def each(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row of values."""

    @abstractmethod
    def packed(self, vector: Vector) -> Any:
        """A vector in the database's format."""

    @abstractmethod
    def unpacked(self, kept: Any) -> Vector:
        """The database's format -> float32 [e]."""

    @abstractmethod
    def nearest(
        self, queries: Vector, count: int, where: Mapping[str, Value] | None = None, approximate: bool = False
    ) -> list[list[tuple[int, float]]]:
        """The nearest items to unit vectors float32 [q, e]: for each query a list of (number, cosine), best first."""

    @abstractmethod
    def damage(self) -> list[str]:
        """Results of the database's own integrity check; empty where nothing is wrong."""

    @abstractmethod
    def close(self) -> None:
        """Close the database; a second call does nothing."""

    # --- writing --------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Write a change. When this returns, the change is on disk and survives a killed process or a power cut."""
        with self.transaction(writes=True):
            replaced = [entry.path for entry in change.put] + [file.path for file in change.refuse]
            self._forget([*change.remove, *replaced])
            for entry in change.put:
                number = self.rows(
                    "INSERT INTO items (path, content, size_bytes, state, metadata) VALUES (?, ?, ?, ?, ?)"
                    " RETURNING number",
                    (entry.path, entry.content, entry.size_bytes, entry.state, _json(entry.metadata)),
                )[0][0]
                self.rows("INSERT INTO vectors (number, vector) VALUES (?, ?)", (number, self.packed(entry.vector)))
                self._describe(number, entry.metadata)
            self.each(
                "INSERT INTO rejected (path, state, code, text) VALUES (?, ?, ?, ?)",
                [(file.path, file.state, file.code, file.text) for file in change.refuse],
            )
            self.each("UPDATE items SET state = ? WHERE path = ?", change.touch)
            for path, metadata in change.describe:
                for (number,) in self.rows("SELECT number FROM items WHERE path = ?", (path,)):
                    self.rows("UPDATE items SET metadata = ? WHERE number = ?", (_json(metadata), number))
                    self.rows("DELETE FROM facts WHERE number = ?", (number,))
                    self._describe(number, metadata)

    def _forget(self, paths: Sequence[str]) -> None:
        gone = self._among("DELETE FROM items WHERE path IN (*) RETURNING number", paths)
        self._among("DELETE FROM rejected WHERE path IN (*)", paths)
        if gone:
            self.rows("UPDATE header SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE name = 'removals'")

    def _describe(self, number: int, metadata: Mapping[str, Value]) -> None:
        self.each(
            "INSERT INTO facts (number, name, value) VALUES (?, ?, ?)",
            [(number, key, as_text(value)) for key, value in metadata.items()],
        )

    def write_header(self, header: Header) -> None:
        """Write the header of a new index; an existing header is kept."""
        with self.transaction(writes=True):
            rows = {**header.rows(), "removals": "0"}
            self.each("INSERT INTO header (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", list(rows.items()))
        self._read_header()

    def _read_header(self) -> None:
        """Set `dim` and `kind`; of tables without a header 0 and float32."""
        rows = dict(self.rows("SELECT name, value FROM header"))
        self.dim, self.kind = int(rows.get("dim", "0")), as_kind(rows.get("vectors", FLOAT32))

    # --- reading --------------------------------------------------------------------------------------------

    def header(self) -> Header:
        """The header: which model made the vectors."""
        return Header.read(dict(self.rows("SELECT name, value FROM header")), self.where)

    def count(self) -> int:
        """Number of items."""
        return int(self.rows("SELECT count(*) FROM items")[0][0])

    def states(self) -> dict[str, tuple[str, str]]:
        """Path -> (state, content hash) of every item, and of every rejected file, whose content hash is ""."""
        found = {path: (state, content) for path, state, content in self.rows("SELECT path, state, content FROM items")}
        return found | {path: (state, "") for path, state in self.rows("SELECT path, state FROM rejected")}

    def refused(self) -> list[Refused]:
        """Every file that cannot be used."""
        return [Refused(*row) for row in self.rows("SELECT path, state, code, text FROM rejected ORDER BY path")]

    def metadata(self) -> dict[str, dict[str, Value]]:
        """Path -> metadata of every item."""
        return {path: json.loads(kept) for path, kept in self.rows("SELECT path, metadata FROM items")}

    def vectors_of(self, contents: Sequence[str]) -> dict[str, Vector]:
        """Content hash -> vector, for those `contents` that the index holds under any path."""
        sql = "SELECT i.content, v.vector FROM items i JOIN vectors v ON v.number = i.number WHERE i.content IN (*)"
        return {key: self.unpacked(kept) for key, kept in self._among(sql, contents)}

    def vectors(self, numbers: Sequence[int]) -> dict[int, Vector]:
        """Number -> vector."""
        rows = self._among("SELECT number, vector FROM vectors WHERE number IN (*)", numbers)
        return {int(number): self.unpacked(kept) for number, kept in rows}

    def items(self, numbers: Sequence[int]) -> dict[int, Item]:
        """Number -> item, for those `numbers` that exist."""
        sql = "SELECT number, path, content, size_bytes, metadata FROM items WHERE number IN (*)"
        return {row[0]: _item(row) for row in self._among(sql, numbers)}

    def _among(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement with "(*)" in place of a list of values, in parts of `IN_ONE_QUESTION` values."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(values), IN_ONE_QUESTION):
            part = values[start : start + IN_ONE_QUESTION]
            found += self.rows(sql.replace("(*)", f"({', '.join('?' for _ in part)})"), part)
        return found

    def chosen(self, where: Mapping[str, Value]) -> list[Item]:
        """Items that pass a filter, sorted by path."""
        condition, values = self.condition(where)
        sql = f"SELECT i.number, i.path, i.content, i.size_bytes, i.metadata FROM items i WHERE {condition}"  # noqa: S608
        return [_item(row) for row in self.rows(f"{sql} ORDER BY i.path", values)]

    def condition(self, where: Mapping[str, Value]) -> tuple[str, list[Any]]:
        """A filter as an SQL condition on `items i`, with its parameters.

        Raises:
            InputError: no image has such a key.
        """
        parts, values = ["1 = 1"], list[Any]()
        for key, value in where.items():
            sql, own = _own_condition(key, as_text(value)) or self._metadata_condition(key, as_text(value))
            parts.append(f"({sql})")
            values += own
        return " AND ".join(parts), values

    def _metadata_condition(self, key: str, value: str) -> tuple[str, list[Any]]:
        if not self.rows("SELECT 1 FROM facts WHERE name = ? LIMIT 1", (key,)):
            known = [
                *OWN_KEYS,
                *(row[0] for row in self.rows("SELECT DISTINCT name FROM facts ORDER BY name LIMIT 50")),
            ]
            raise InputError(
                f"no image of {self.where} has {key!r}{nearest(key, known)}",
                "one of " + ", ".join(known),
                "choose one, or add it with --metadata FILE",
            )
        return "i.number IN (SELECT f.number FROM facts f WHERE f.name = ? AND f.value = ?)", [key, value]


def as_text(value: Value) -> str:
    """A value as text for filters: 2021, 2021.0 and "2021" are equal, and so are true, "true" and True."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def rescored(
    queries: Vector, numbers: Sequence[Sequence[int] | npt.NDArray[np.int64]], vectors: Sequence[Vector], count: int
) -> list[list[tuple[int, float]]]:
    """Sort candidates by their cosine in float64, and equal ones by number.

    Order and cosine therefore depend neither on the number of queries in the batch, nor on the machine, nor on how the
    candidates were found; evaluation compares in float64 as well.

    Args:
        queries: float32 [q, e].
        numbers: candidates of each query.
        vectors: float32 [c, e] of each query's candidates.
        count: how many to return.
    """
    found = []
    for query, some, rows in zip(queries, numbers, vectors, strict=True):
        # One sum per row, because the rounding of a matrix product may depend on its shape.
        cosines = (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1).tolist() if len(some) else []
        ordered = sorted(zip(map(int, some), cosines, strict=True), key=lambda pair: (-pair[1], pair[0]))
        found.append(ordered[:count])
    return found


def _own_condition(key: str, value: str) -> tuple[str, list[Any]] | None:
    if key == "size":
        if not value.isdigit():
            raise InputError(f"size={value}", "a number of bytes", "give a whole number")
        return "i.size_bytes = ?", [int(value)]
    if key == "path":
        end = value if os.path.isabs(value) else f"/{value}"
        return "substr(i.path, length(i.path) - ?) = ?", [len(end) - 1, end]
    if key != "folder":
        return None
    if os.path.isabs(value):
        below = value.rstrip("/") + "/"
        return "substr(i.path, 1, ?) = ?", [len(below), below]
    return "replace(i.path, ?, '') <> i.path", [f"/{value.strip('/')}/"]


def _json(metadata: Mapping[str, Value]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)


def _item(row: Sequence[Any]) -> Item:
    number, path, content, size_bytes, kept = row
    return Item(number, path, content, size_bytes, json.loads(kept))
