"""An index in one folder: SQLite with a write-ahead log is the source of truth; all vectors are held in memory.

`synchronous=FULL`: a committed transaction survives a power cut, not only a killed process. It costs one flush to disk
per transaction, that is, per `photos.AT_ONCE` images.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import InputError, JobError
from chiasm.core.files import folder_lock
from chiasm.serve.index.approximate import Approximate
from chiasm.serve.index.codes import MATRICES, BitMatrix, from_int8, to_int8
from chiasm.serve.index.kinds import FLOAT32, INT8
from chiasm.serve.index.matrix import Matrix, Numbers
from chiasm.serve.index.store import Store, Value, Vector, rescored

FILE = "index.sqlite"
APPROXIMATE = "approximate.faiss"
APPLICATION = 0x63686978
"""SQLite's `application_id`, which marks the file as an index."""
READ_AT_ONCE = 8192
BUSY_S = 30.0
"""How long a writer waits for another one; readers never wait."""
SCHEMA = """
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, content TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, state TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE INDEX items_by_content ON items (content);
CREATE TABLE vectors (number INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE, vector BLOB NOT NULL);
CREATE TABLE facts (number INTEGER NOT NULL REFERENCES items ON DELETE CASCADE, name TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (name, value, number)) WITHOUT ROWID;
CREATE INDEX facts_by_item ON facts (number);
CREATE TABLE rejected (path TEXT PRIMARY KEY, state TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL)
    WITHOUT ROWID;
"""


class SqliteStore(Store):
    """An index in a folder, or in memory.

    Thread-safe: a lock protects the database, and searches read an immutable matrix.

    Args:
        folder: holds `index.sqlite`, and `approximate.faiss` where one was built; None keeps everything in memory.
        makes: create the folder and its tables where they are missing.

    Raises:
        InputError: no index, a damaged one, or another program's file.
    """

    def __init__(self, folder: Path | None, makes: bool = False) -> None:
        super().__init__()
        self.folder, self.where = folder, "the index in memory" if folder is None else str(folder)
        if folder is not None and not (folder / FILE).is_file():
            self._may_make(folder, makes)
        place = ":memory:" if folder is None else str(folder / FILE)
        with self._teaching():
            self._database = sqlite3.connect(place, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._open()
            self._read_header()
        self._matrix = MATRICES[self.kind][0].empty(self.dim)
        self._removals, self._version = "0", -1
        self.approximate = None if folder is None else Approximate(folder / APPROXIMATE)

    def _may_make(self, folder: Path, makes: bool) -> None:
        if not makes:
            raise InputError(
                f"{folder} is no index: it has no {FILE}",
                "an index made by chiasm",
                f"make one: chiasm index build PHOTOS {folder} --model RUN",
            )
        if folder.exists() and (not folder.is_dir() or any(file.name != ".lock" for file in folder.iterdir())):
            raise InputError(f"{folder} holds something else", "a new or empty folder, or an index", "give another")
        folder.mkdir(parents=True, exist_ok=True)

    def _open(self) -> None:
        run = self._database.execute
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA synchronous = FULL")
        if run("PRAGMA application_id").fetchone()[0] == APPLICATION:
            return
        if run("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise InputError(
                f"{self.where}/{FILE} is another program's", "an index made by chiasm", "give another path"
            )
        run("PRAGMA journal_mode = WAL")
        self._database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; COMMIT;")

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        """As `Store._teaching`."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JobError(
                f"{self.where}: {error}\n  do: check that the disk has room and may be written to"
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.where} is damaged: {error}",
                "an index as it was written",
                "restore it from a copy, or delete it and build it again",
            ) from error

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[None]:
        """A writing transaction takes the lock at its beginning, so that it waits there and not later."""
        self._database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def writing(self) -> AbstractContextManager[None]:
        """As `Store.writing`: the folder's lock."""
        return folder_lock(self.folder) if self.folder is not None else nullcontext()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `Store.rows`."""
        with self._lock, self._teaching():
            return self._database.execute(sql, tuple(values)).fetchall()

    def each(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """As `Store.each`."""
        with self._lock, self._teaching():
            self._database.executemany(sql, rows)

    def packed(self, vector: Vector) -> bytes:
        """Little-endian float32, or int8."""
        return to_int8(vector[None]).tobytes() if self.kind == INT8 else vector.astype("<f4").tobytes()

    def unpacked(self, kept: bytes) -> Vector:
        """As `Store.unpacked`."""
        return self._floats(kept, 1)[0]

    def _floats(self, kept: bytes, rows: int) -> Vector:
        if self.kind == INT8:
            return from_int8(np.frombuffer(kept, dtype=np.int8).reshape(rows, -1))
        return np.frombuffer(kept, dtype="<f4").astype(np.float32).reshape(rows, -1)

    # --- searching ------------------------------------------------------------------------------------------

    def matrix(self) -> Matrix:
        """All vectors in the database, of `kind`; only what has changed since the last call is read."""
        with self.transaction():
            header = dict(self.rows("SELECT name, value FROM header"))
            held, as_held = MATRICES[self.kind]
            empty = held.empty(self.dim)
            is_same = type(self._matrix) is held and self._matrix.vectors.shape[1] == empty.vectors.shape[1]
            matrix = self._matrix if is_same else empty
            last = int(matrix.numbers[-1]) if len(matrix.numbers) else 0
            sql = "SELECT number, vector FROM vectors WHERE number > ? ORDER BY number LIMIT ?"
            while rows := self.rows(sql, (last, READ_AT_ONCE)):
                numbers = np.array([number for number, _ in rows], dtype=np.int64)
                vectors = self._floats(b"".join(kept for _, kept in rows), len(rows))
                matrix, last = matrix.with_rows(numbers, as_held(vectors)), int(numbers[-1])
            if header.get("removals", "0") != self._removals:
                left = np.array([row[0] for row in self.rows("SELECT number FROM vectors ORDER BY number")], np.int64)
                matrix = matrix.only(left)
            self._matrix, self._removals = matrix, header.get("removals", "0")
            return matrix

    def nearest(
        self, queries: Vector, count: int, where: Mapping[str, Value] | None = None, approximate: bool = False
    ) -> list[list[tuple[int, float]]]:
        """As `Store.nearest`."""
        with self.transaction():
            matrix, allowed = self.matrix(), None
            if where:
                condition, values = self.condition(where)
                rows = self.rows(f"SELECT i.number FROM items i WHERE {condition} ORDER BY i.number", values)  # noqa: S608
                allowed = np.array([number for (number,) in rows], dtype=np.int64)
        # The lock is released while the immutable vectors are compared.
        if isinstance(matrix, BitMatrix):
            return self._rescored(queries, matrix.proposed(queries, count, allowed), count)
        if approximate and self.approximate is not None and self.kind == FLOAT32:
            return self.approximate.nearest(matrix, queries, count, allowed)
        return matrix.nearest(queries, count, allowed)

    def _rescored(self, queries: Vector, proposed: Sequence[Numbers], count: int) -> list[list[tuple[int, float]]]:
        """The best of the candidates by their vectors on disk; one that was removed meanwhile is left out."""
        vectors = self.vectors(sorted({int(number) for some in proposed for number in some}))
        kept = [[number for number in some.tolist() if number in vectors] for some in proposed]
        none = np.zeros((0, self.dim), np.float32)
        rows = [np.stack([vectors[number] for number in some]) if some else none for some in kept]
        return rescored(queries, kept, rows, count)

    def damage(self) -> list[str]:
        """As `Store.damage`."""
        pages = [str(row[0]) for row in self.rows("PRAGMA integrity_check") if row[0] != "ok"]
        keys = [
            f"{table} row {row} points to no {parent}"
            for table, row, parent, _ in self.rows("PRAGMA foreign_key_check")
        ]
        return pages + keys

    def close(self) -> None:
        """As `Store.close`; the write-ahead log is merged into the file."""
        with self._lock:
            self._database.close()
