"""Search that looks at a part of the vectors: a file derived from the truth, made anew when it no longer fits it.

The kind, an inverted file whose lists hold 4-bit product codes, is the one with the best trade of speed, recall, size
and time to build of those that `benchmarks/index_search.py` compares. What it proposes is compared again with the
whole vectors, so that a similarity is always exact and only a neighbour may be missed. Items that came after it was
made are compared one by one, and forgotten ones are left out; from a tenth of either on, it is made anew.
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
"""Vectors below which exact search answers: it takes a few milliseconds, and there is too little to learn lists of."""
STALE_SHARE = 0.1
TRAINING_ROWS_A_LIST = 64
PROPOSED = 20
"""Candidates compared with whole vectors, for each neighbour that is asked for."""
LISTS_SEEN = 1 / 64
"""Share of the lists that a search looks into."""
MAGIC = b"chiasm approximate index 1\n"


@dataclass(frozen=True, slots=True)
class _Made:
    """A loaded file: the numbers it covers are those up to `last` that existed when it was made."""

    index: Any
    count: int
    last: int


class Approximate:
    """The derived file of one index.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: _Made | None = None
        self._lock = threading.Lock()

    def nearest(
        self, matrix: Matrix, queries: Vectors, count: int, allowed: Numbers | None = None
    ) -> list[list[tuple[int, float]]]:
        """As `Matrix.nearest`, but may miss neighbours; made first where it is missing, damaged or stale.

        A filter that leaves few vectors is answered exactly, because hardly any proposal would fit it.
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
        rows = [matrix.rows_of(np.concatenate([np.sort(one[one >= 0]), tail])) for one in found]
        return rescored(queries, [matrix.numbers[one] for one in rows], [matrix.vectors[one] for one in rows], count)

    def make(self, matrix: Matrix) -> _Made:
        """Learn the lists and codes of these vectors and write the file, whole or not at all."""
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
        """What is wrong with the file, "" where nothing is or there is none."""
        if not self.path.exists():
            return ""
        made = self._read()
        if made is None:
            return "is damaged"
        return "is stale" if _is_stale(made, matrix) else ""

    def _read(self) -> _Made | None:
        """The file, if it is there and whole: a damaged one would end the process inside faiss."""
        try:
            content = self.path.read_bytes()
            magic, head, body = content.split(b"\n", 2)
            told = json.loads(head)
        except (OSError, ValueError):
            return None
        if magic + b"\n" != MAGIC or sha256_bytes(body) != told.get("sha256"):
            return None
        index = _faiss().deserialize_index(np.frombuffer(body, dtype=np.uint8))
        return _Made(index, told["count"], told["last"])


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
