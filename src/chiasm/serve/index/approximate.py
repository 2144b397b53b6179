"""Approximate search (faiss): a file derived from the index's vectors, rebuilt when it is stale.

An inverted file whose lists hold 4-bit product codes: the best trade-off of speed, recall, size and build time among
those that `benchmarks/index_search.py` compares. Its candidates are scored again with the full vectors, so that a
similarity is always exact and only a neighbour may be missed. Items added since it was built are compared one by one,
and removed ones are left out; when a tenth were added or removed, it is rebuilt.
"""

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import MissingExtraError
from chiasm.core.files import sha256_bytes, write_bytes
from chiasm.serve.index.matrix import Matrix, Numbers, Vectors
from chiasm.serve.index.store import MARGIN, rescored

LEAST = 20_000
"""With fewer vectors search is exact: it takes milliseconds, and there are too few to train the lists on."""
STALE_SHARE = 0.1
TRAINING_ROWS_A_LIST = 64
PROPOSED = 20
"""Candidates that are scored again with full vectors, per requested neighbour."""
LISTS_SEEN = 1 / 64
"""Share of the lists that a search reads."""
MAGIC = b"chiasm approximate index 1\n"


@dataclass(frozen=True, slots=True)
class _Made:
    """A loaded file: it covers the item numbers up to `last` that existed when it was built."""

    index: Any
    count: int
    last: int


class Approximate:
    """The derived file of one index.

    Args:
        path: the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: _Made | None = None
        self._lock = threading.Lock()

    def nearest(
        self, matrix: Matrix, queries: Vectors, count: int, allowed: Numbers | None = None
    ) -> list[list[tuple[int, float]]]:
        """As `Matrix.nearest`, but may miss neighbours; the file is rebuilt first if missing, damaged or stale.

        Under a filter that few vectors pass, search is exact, because hardly any candidate would pass it.
        """
        if len(matrix.numbers) < LEAST or (
            allowed is not None and len(allowed) < max(LEAST, len(matrix.numbers) // 10)
        ):
            return matrix.nearest(queries, count, allowed)
        with self._lock:
            made = self._made if self._made is not None else self._read()
            if made is None or _is_stale(made, matrix):
                made = self.make(matrix)
            self._made = made
        wanted = PROPOSED * count + MARGIN
        asked, selected = np.ascontiguousarray(queries), _selected(made.index.nprobe, allowed)
        _, found = made.index.search(asked, min(wanted, made.count), params=selected)
        tail = matrix.numbers[np.searchsorted(matrix.numbers, made.last, side="right") :]
        tail = tail if allowed is None else tail[np.isin(tail, allowed, assume_unique=True)]
        candidates = [matrix.rows_of(np.concatenate([np.sort(ids[ids >= 0]), tail])) for ids in found]
        numbers = [matrix.numbers[rows] for rows in candidates]
        return rescored(queries, numbers, [matrix.vectors[rows] for rows in candidates], count)

    def make(self, matrix: Matrix) -> _Made:
        """Train the lists and codes on these vectors and write the file atomically."""
        faiss = _faiss()
        count, dim = matrix.vectors.shape
        lists = max(1, min(count // 39, 2 ** round(math.log2(4 * math.sqrt(count)))))
        index = faiss.index_factory(
            dim, f"IVF{lists},PQ{dim // 2 if dim % 2 == 0 else dim}x4fs", faiss.METRIC_INNER_PRODUCT
        )
        step = max(1, count // (TRAINING_ROWS_A_LIST * lists))
        index.train(matrix.vectors[::step])
        index.add_with_ids(matrix.vectors, matrix.numbers)
        index.nprobe = max(1, round(lists * LISTS_SEEN))
        content = faiss.serialize_index(index).tobytes()
        head = {"sha256": sha256_bytes(content), "count": count, "last": int(matrix.numbers[-1])}
        write_bytes(self.path, MAGIC + json.dumps(head).encode() + b"\n" + content)
        return _Made(index, count, head["last"])

    def problem(self, matrix: Matrix) -> str:
        """What is wrong with the file; "" where nothing is, or where there is no file."""
        if not self.path.exists():
            return ""
        made = self._read()
        if made is None:
            return "is damaged"
        return "is stale" if _is_stale(made, matrix) else ""

    def _read(self) -> _Made | None:
        """The file if it exists and its hash is right: a damaged one would crash the process inside faiss."""
        try:
            content = self.path.read_bytes()
            magic, head, body = content.split(b"\n", 2)
            fields = json.loads(head)
        except (OSError, ValueError):
            return None
        if magic + b"\n" != MAGIC or sha256_bytes(body) != fields.get("sha256"):
            return None
        index = _faiss().deserialize_index(np.frombuffer(body, dtype=np.uint8))
        return _Made(index, fields["count"], fields["last"])


def _is_stale(made: _Made, matrix: Matrix) -> bool:
    if made.index.d != matrix.vectors.shape[1]:
        return True
    covered = int(np.searchsorted(matrix.numbers, made.last, side="right"))
    added, gone = len(matrix.numbers) - covered, made.count - covered
    return gone < 0 or max(added, gone) > STALE_SHARE * len(matrix.numbers)


def _selected(lists_seen: int, allowed: Numbers | None) -> Any:
    faiss = _faiss()
    if allowed is None:
        return None
    return faiss.SearchParametersIVF(sel=faiss.IDSelectorBatch(allowed), nprobe=lists_seen)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "index") from None
    return faiss
