"""Vectors of an index in fewer bytes: integers of eight bits, or the signs alone.

`INT8`: each vector is divided by its largest coordinate and rounded to [-127, 127]; as all vectors have unit length, no
scale is kept. A quarter of the bytes, on disk and in memory; cosines are those of the rounded vectors.

`BINARY`: one bit a coordinate, 1 where it is above 0; 1/32 of the bytes in memory. The nearest by Hamming distance are
candidates, which the store scores again with the float32 vectors on disk: a similarity is exact, and a neighbour may be
missed that is not among the candidates. For vectors whose directions are spread evenly, the share of equal signs
grows with the cosine (Charikar 2002, section 3).

Axis legend: n vectors, q queries, e width of a vector, w words of 64 bits.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from chiasm.serve.index.kinds import Kind
from chiasm.serve.index.matrix import ROWS_AT_ONCE, Matrix, Numbers, Vectors

LEVELS = 127
PROPOSED, FEWEST_PROPOSED = 10, 100
"""Candidates by Hamming distance for each wanted result, and at least; they are scored again."""


def to_int8(vectors: Vectors) -> npt.NDArray[np.int8]:
    """float32 [n, e] -> int8 [n, e] of nearly the same directions."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (LEVELS / np.maximum(largest, 1e-30))).astype(np.int8)


def from_int8(integers: npt.NDArray[np.int8]) -> Vectors:
    """int8 [n, e] -> float32 [n, e] of unit length; a row of zeros stays one."""
    rows = integers.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def to_bits(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """float32 [n, e] -> signs, uint64 [n, w], w = e / 64 rounded up; bits beyond e are 0."""
    count, width = vectors.shape
    padded = np.zeros((count, -(-width // 64) * 64), dtype=bool)
    padded[:, :width] = vectors > 0
    return np.packbits(padded, axis=1).view(np.uint64)


class Int8Matrix(Matrix):
    """As `Matrix`, with `vectors` int8 [n, e]."""

    @classmethod
    def empty(cls, dim: int) -> Self:
        """No vectors."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, dim), dtype=np.int8))

    def floats(self, rows: slice | npt.NDArray[np.int64]) -> Vectors:
        """Some of the vectors, float32 of unit length."""
        return from_int8(self.vectors[rows])


class BitMatrix(Matrix):
    """As `Matrix`, with `vectors` uint64 [n, w], from which only candidates come: `proposed`."""

    @classmethod
    def empty(cls, dim: int) -> Self:
        """No vectors."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros((0, -(-dim // 64)), dtype=np.uint64))

    def proposed(self, queries: Vectors, count: int, allowed: Numbers | None = None) -> list[Numbers]:
        """Numbers of the candidates of each query, float32 [q, e], for `count` results; ascending.

        Args:
            queries: unit vectors.
            count: results that are wanted.
            allowed: numbers that may be found; None means all.
        """
        chosen = self if allowed is None else self._of(self.rows_of(allowed))
        wanted = max(FEWEST_PROPOSED, PROPOSED * count)
        if wanted >= len(chosen.numbers):
            return [chosen.numbers] * len(queries)
        return [np.sort(chosen.numbers[_closest(chosen.vectors, asked, wanted)]) for asked in to_bits(queries)]


def _closest(bits: npt.NDArray[np.uint64], asked: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.int64]:
    """Rows of the `count` least Hamming distances to one query, uint64 [w]; of equal distances the first rows."""
    parts = [
        np.bitwise_count(bits[start : start + ROWS_AT_ONCE] ^ asked).sum(axis=1, dtype=np.int64)
        for start in range(0, len(bits), ROWS_AT_ONCE)
    ]
    distances = np.concatenate(parts)
    limit = np.partition(distances, count - 1)[count - 1]
    nearer = np.flatnonzero(distances < limit)
    return np.concatenate([nearer, np.flatnonzero(distances == limit)[: count - len(nearer)]])


MATRICES: dict[Kind, tuple[type[Matrix], Callable[[Vectors], npt.NDArray[Any]]]] = {
    "float32": (Matrix, lambda vectors: vectors),
    "int8": (Int8Matrix, to_int8),
    "binary": (BitMatrix, to_bits),
}
"""Kind -> what holds such vectors in memory, and what it holds of float32 [n, e]."""
