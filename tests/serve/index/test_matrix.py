"""Exact and approximate search over made-up vectors, against a slow way of computing."""

from pathlib import Path

import numpy as np
import pytest

from chiasm.serve.index import approximate as derived
from chiasm.serve.index.approximate import Approximate
from chiasm.serve.index.matrix import Matrix


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((50, dim))
    rows = centres[rng.integers(0, 50, count)] + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow(matrix: Matrix, query: np.ndarray, count: int, allowed: set[int] | None = None) -> list[int]:
    rows = zip(matrix.numbers.tolist(), matrix.vectors.astype(np.float64) @ query.astype(np.float64), strict=True)
    kept = [(-cosine, number) for number, cosine in rows if allowed is None or number in allowed]
    return [number for _, number in sorted(kept)[:count]]


@pytest.mark.parametrize(("rows_at_once", "many"), [(7, 501), (64, 501), (10_000, 501), (64, 1)])
def test_exact_search(rows_at_once: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against neighbours lost between chunks, between growths, or behind a filter, wide or narrow."""
    monkeypatch.setattr("chiasm.serve.index.matrix.ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr("chiasm.serve.index.matrix.MANY_VECTORS", many)
    vectors, queries = clustered(500, 16, 0), clustered(4, 16, 1)
    numbers = np.arange(500) * 3 + 1
    matrix = Matrix.empty(16)
    for start in range(0, 500, 123):
        before, kept = matrix, matrix.vectors.copy()
        matrix = matrix.with_rows(numbers[start : start + 123], vectors[start : start + 123])
        assert np.array_equal(before.vectors, kept), "a search that has begun is not disturbed"
    wide, narrow = numbers[::2], numbers[5:9]
    for some in (queries, queries[:1]):
        for allowed in (None, wide, narrow):
            found = matrix.nearest(some, 10, allowed)
            names = None if allowed is None else set(allowed.tolist())
            assert [[number for number, _ in one] for one in found] == [slow(matrix, q, 10, names) for q in some]
    assert matrix.nearest(queries[:1], 10) == matrix.nearest(queries, 10)[:1], "alone as in company"
    left = matrix.only(wide)
    assert [number for number, _ in left.nearest(queries[:1], 10)[0]] == slow(left, queries[0], 10)
    assert Matrix.empty(16).nearest(queries, 3) == [[], [], [], []]
    assert len(matrix.nearest(queries[:1], 1000)[0]) == 500


def test_approximate_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a derived file that is believed though it is damaged or stale, and against forgotten items."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(derived, "LEAST", 100)
    monkeypatch.setattr(derived, "LISTS_SEEN", 1 / 4)
    vectors, queries = clustered(4000, 32, 0), clustered(20, 32, 1)
    matrix = Matrix.empty(32).with_rows(np.arange(1, 4001), vectors)
    made: list[int] = []
    inner = Approximate.make
    monkeypatch.setattr(Approximate, "make", lambda self, some: made.append(len(some.numbers)) or inner(self, some))
    path = tmp_path / "approximate.faiss"

    def recall(index: Approximate, some: Matrix, allowed: np.ndarray | None = None) -> float:
        found = index.nearest(some, queries, 10, allowed)
        names = None if allowed is None else set(allowed.tolist())
        hits = [len({n for n, _ in one} & set(slow(some, q, 10, names))) for one, q in zip(found, queries, strict=True)]
        for one in found:
            assert all(number in some.numbers and (names is None or number in names) for number, _ in one)
        return sum(hits) / 200

    assert recall(Approximate(path), matrix) >= 0.9 and made == [4000]
    assert recall(Approximate(path), matrix, np.arange(1, 4001, 2)) >= 0.85 and made == [4000]
    grown = matrix.with_rows(np.arange(5001, 5201), queries[np.arange(200) % 20] + 1e-3)
    few_less = grown.only(np.setdiff1d(grown.numbers, np.arange(1, 100)))
    index = Approximate(path)
    assert recall(index, few_less) >= 0.9 and made == [4000], "new and forgotten items are minded without a new file"
    assert index.problem(few_less) == ""
    half = matrix.only(np.arange(1, 2001))
    assert index.problem(half) == "is stale"
    assert recall(index, half) >= 0.9 and made == [4000, 2000]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert Approximate(path).problem(half) == "is damaged"
    assert recall(Approximate(path), half) >= 0.9 and made == [4000, 2000, 2000]
    path.write_bytes(b"\n\n")
    assert Approximate(path).problem(half) == "is damaged"
