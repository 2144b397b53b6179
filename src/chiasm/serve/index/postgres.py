"""An index in PostgreSQL with the extension pgvector, for more images than fit in the memory of one machine.

Tables and results are those of an index in a folder; the database compares the vectors. Exact search reads all of
them; approximate search uses an HNSW index of pgvector, which the database updates.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from chiasm.core.errors import InputError, JobError, MissingExtraError
from chiasm.serve.index.store import MARGIN, Store, Value, Vector, rescored

SCHEMES = ("postgresql://", "postgres://")
EF_SEARCH = 200
"""Candidates of an approximate search (`hnsw.ef_search`); pgvector's default of 40 finds fewer neighbours."""
MAX_HNSW_DIM = 2000
"""Longest vector that pgvector can put into an HNSW index."""
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS chiasm;
SET search_path TO chiasm, public;
CREATE TABLE IF NOT EXISTS header (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL, size_bytes BIGINT NOT NULL, state TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS items_by_content ON items (content);
CREATE TABLE IF NOT EXISTS vectors (number BIGINT PRIMARY KEY REFERENCES items ON DELETE CASCADE,
    vector vector NOT NULL);
CREATE TABLE IF NOT EXISTS facts (number BIGINT NOT NULL REFERENCES items ON DELETE CASCADE, name TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (name, value, number));
CREATE INDEX IF NOT EXISTS facts_by_item ON facts (number);
CREATE TABLE IF NOT EXISTS rejected (path TEXT PRIMARY KEY, state TEXT NOT NULL, code TEXT NOT NULL,
    text TEXT NOT NULL);
"""


def is_address(place: str) -> bool:
    """Whether a place is the address of a PostgreSQL database."""
    return place.startswith(SCHEMES)


class PostgresStore(Store):
    """An index in the schema `chiasm` of a database.

    Args:
        address: postgresql://USER:PASSWORD@HOST:PORT/DATABASE; the password may also come from PGPASSWORD or ~/.pgpass,
            and is never repeated in a message.
        makes: create the tables where there are none.

    Raises:
        InputError: the database has no tables of an index.
        JobError: there is no connection.
        MissingExtraError: the extra [postgres] is not installed.
    """

    def __init__(self, address: str, makes: bool = False) -> None:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError:
            raise MissingExtraError("psycopg", "postgres") from None
        super().__init__()
        self._psycopg: Any = psycopg
        self.where = re.sub(r"//[^@/]*@", "//", address.split("?")[0])
        with self._teaching():
            self._connection: Any = psycopg.connect(address, autocommit=True)
            if makes:
                self._connection.execute(SCHEMA)
            self._connection.execute("SET search_path TO chiasm, public")
            if self.rows("SELECT to_regclass('chiasm.header')")[0][0] is None:
                self._connection.close()
                raise InputError(
                    f"{self.where} holds no index",
                    "an index made by chiasm",
                    "make one: chiasm index build PHOTOS ADDRESS --model RUN",
                )
            register_vector(self._connection)
            self._read_header()

    @contextmanager
    def _teaching(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise JobError(f"{self.where}: {reason}\n  do: check that the database runs and may be used") from None

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[None]:
        """A reading transaction sees the state at its beginning."""
        with self._connection.transaction():
            level = "READ COMMITTED" if writes else "REPEATABLE READ"
            self._connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """As `Store.writing`: an advisory lock, which the database releases when this process dies."""
        key = int.from_bytes(hashlib.sha256(b"chiasm index").digest()[:7], "big")
        if not self.rows("SELECT pg_try_advisory_lock(?)", (key,))[0][0]:
            raise InputError(f"{self.where} is written by another process", "one writer at a time", "wait for it")
        try:
            yield
        finally:
            self.rows("SELECT pg_advisory_unlock(?)", (key,))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `Store.rows`."""
        with self._lock, self._teaching():
            found = self._connection.execute(sql.replace("?", "%s"), tuple(values))
            return found.fetchall() if found.description is not None else []

    def each(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """As `Store.each`."""
        with self._lock, self._teaching(), self._connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), [tuple(row) for row in rows])

    def packed(self, vector: Vector) -> Any:
        """A vector of pgvector, which stores float32."""
        from pgvector import Vector as Packed

        return Packed(vector)

    def unpacked(self, kept: Any) -> Vector:
        """As `Store.unpacked`."""
        return np.asarray(kept.to_numpy() if hasattr(kept, "to_numpy") else kept, dtype=np.float32)

    def nearest(
        self, queries: Vector, count: int, where: Mapping[str, Value] | None = None, approximate: bool = False
    ) -> list[list[tuple[int, float]]]:
        """As `Store.nearest`; the database returns some further candidates, whose cosines are computed again here."""
        numbers, vectors = list[list[int]](), list[Vector]()
        with self.transaction():
            # The planner must not choose the HNSW index for exact search.
            self.rows(f"SET LOCAL enable_indexscan = {'on' if approximate else 'off'}")
            if approximate:
                self._make_hnsw()
                self.rows(f"SET LOCAL hnsw.ef_search = {max(EF_SEARCH, min(1000, 4 * (count + MARGIN)))}")
                self.rows("SET LOCAL hnsw.iterative_scan = strict_order")
            condition, values = self.condition(where or {})
            sql = "SELECT v.number, v.vector FROM vectors v JOIN items i ON i.number = v.number WHERE"
            order = f"ORDER BY v.vector::vector({self.dim}) <#> ? LIMIT ?"
            for query in queries:
                rows = self.rows(f"{sql} {condition} {order}", [*values, self.packed(query), count + MARGIN])
                numbers.append([number for number, _ in rows])
                found = [self.unpacked(kept) for _, kept in rows]
                vectors.append(np.stack(found) if found else np.zeros((0, self.dim), np.float32))
        return rescored(queries, numbers, vectors, count)

    def _make_hnsw(self) -> None:
        if self.dim <= MAX_HNSW_DIM:
            self.rows(
                "CREATE INDEX IF NOT EXISTS vectors_hnsw ON vectors"
                f" USING hnsw ((vector::vector({self.dim})) vector_ip_ops)"
            )

    def damage(self) -> list[str]:
        """Nothing: the server checks its own pages, where checksums are on."""
        return []

    def close(self) -> None:
        """As `Store.close`."""
        with self._lock:
            self._connection.close()
