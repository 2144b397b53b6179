"""All vectors of an index in memory, and exact search over them.

Axis legend: n vectors, q queries, e width of a vector, r rows compared at once.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from chiasm.serve.index.store import MARGIN, rescored

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
ROWS_AT_ONCE = 65_536
FEW_QUERIES, MANY_VECTORS = 6, 20_000
"""faiss, where installed, searches at least `MANY_VECTORS` vectors for fewer than `FEW_QUERIES` queries: it selects the
best while it reads the vectors, where a matrix product writes all products to memory first. For sixteen queries the
product takes less than half of faiss's time; the break-even depends on the threads (`benchmarks/index_search.py`)."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """An immutable set of vectors; writes to the index do not affect a search that has begun.

    Attributes:
        numbers: int64 [n], ascending.
        vectors: float32 [n, e], unit length, row i for `numbers[i]`; subclasses keep them in fewer bytes (`codes`).
        space: as `vectors`, [at least n, e], buffer whose first n rows they are; None where there is no room to grow.
    """

    numbers: Numbers
    vectors: npt.NDArray[Any]
    space: npt.NDArray[Any] | None = None

    @classmethod
    def empty(cls, dim: int) -> Self:
        """No vectors."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, dim), dtype=np.float32))

    def with_rows(self, numbers: Numbers, vectors: npt.NDArray[Any]) -> Self:
        """A matrix with further vectors, whose numbers are larger. The buffer doubles, so most calls copy little.

        Rows are written behind the end of this matrix, which no search reads.
        """
        assert not len(self.numbers) or not len(numbers) or self.numbers[-1] < numbers[0], "numbers only grow"
        count, total = len(self.numbers), len(self.numbers) + len(numbers)
        space = self.space
        if space is None or len(space) < total:
            space = np.empty((max(total, 2 * count), self.vectors.shape[1]), dtype=self.vectors.dtype)
            space[:count] = self.vectors
        space[count:total] = vectors
        return replace(self, numbers=np.concatenate([self.numbers, numbers]), vectors=space[:total], space=space)

    def only(self, numbers: Numbers) -> Self:
        """The vectors whose numbers are among `numbers`, which are ascending."""
        kept = np.isin(self.numbers, numbers, assume_unique=True)
        return self if kept.all() else self._of(kept)

    def _of(self, rows: npt.NDArray[Any]) -> Self:
        return replace(self, numbers=self.numbers[rows], vectors=self.vectors[rows], space=None)

    def floats(self, rows: slice | npt.NDArray[np.int64]) -> Vectors:
        """Some of the vectors, float32 of unit length."""
        return self.vectors[rows]

    def rows_of(self, numbers: Numbers) -> npt.NDArray[np.int64]:
        """Row indices of those `numbers` that this matrix holds."""
        if not len(self.numbers):
            return np.zeros(0, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return rows[self.numbers[rows] == numbers]

    def nearest(self, queries: Vectors, count: int, allowed: Numbers | None = None) -> list[list[tuple[int, float]]]:
        """The nearest vectors to unit vectors float32 [q, e]: (number, cosine) a query, best first.

        Args:
            queries: float32 [q, e].
            count: maximum number of results per query.
            allowed: numbers that may be found; None means all.
        """
        rows = None if allowed is None else self.rows_of(allowed)
        if rows is not None and len(rows) * 4 < len(self.numbers):
            return self._of(rows).nearest(queries, count)
        best = self._candidates(queries, count + MARGIN, rows)
        return rescored(queries, [self.numbers[row] for row in best], [self.floats(row) for row in best], count)

    def _candidates(
        self, queries: Vectors, count: int, rows: npt.NDArray[np.int64] | None
    ) -> list[npt.NDArray[np.int64]]:
        """Rows with the largest float32 products, for each query, in no order."""
        total = len(self.numbers)
        is_large = self.vectors.dtype == np.float32 and total >= MANY_VECTORS
        faiss = _faiss() if rows is None and len(queries) < FEW_QUERIES and is_large else None
        if faiss is not None:
            _, found = faiss.knn(queries, self.vectors, min(count, total), metric=faiss.METRIC_INNER_PRODUCT)
            return list(found)
        hidden = None
        if rows is not None:
            hidden = torch.ones(total, dtype=torch.bool)
            hidden[torch.from_numpy(rows)] = False
        asked = torch.from_numpy(np.ascontiguousarray(queries))
        values, places = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.long)
        for start in range(0, total, ROWS_AT_ONCE):
            part = torch.from_numpy(self.floats(slice(start, start + ROWS_AT_ONCE)))
            products = asked @ part.T  # also for one query: torch's matrix-vector product takes twice as long
            if hidden is not None:
                products[:, hidden[start : start + ROWS_AT_ONCE]] = -torch.inf
            top, where = products.topk(min(count, len(part)), dim=1, sorted=False)
            values, places = torch.cat([values, top], 1), torch.cat([places, where + start], 1)
            if values.shape[1] > 8 * count:
                values, places = _best(values, places, count)
        values, places = _best(values, places, min(count, values.shape[1]))
        return [place[value > -torch.inf].numpy() for value, place in zip(values, places, strict=True)]


@cache
def _faiss() -> Any:
    """Faiss from the extra [index], or None; it only saves time here."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _best(values: torch.Tensor, places: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    top, where = values.topk(count, dim=1, sorted=False)
    return top, places.gather(1, where)
