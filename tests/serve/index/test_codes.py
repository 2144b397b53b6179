"""Small vectors: what is kept, what is found with them, and that an index with them changes like any other."""

from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.serve.index.codes import BitMatrix, Int8Matrix, from_int8, to_bits, to_int8
from chiasm.serve.index.header import FORMAT, Header
from chiasm.serve.index.kinds import Kind
from chiasm.serve.index.matrix import Matrix
from chiasm.serve.index.sqlite import SqliteStore
from chiasm.serve.index.store import Change, Entry

DIM = 70
"""No multiple of 64, so that the last word of the bits is padded."""


def spread(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def order(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    cosines = vectors.astype(np.float64) @ query.astype(np.float64)
    return sorted(range(len(vectors)), key=lambda row: (-cosines[row], row))


def entry(number: int, vector: np.ndarray) -> Entry:
    return Entry(f"/photos/{number:03}.png", f"hash{number}", 1, "state", vector)


def store_of(kind: Kind, folder: Path, vectors: np.ndarray) -> SqliteStore:
    store = SqliteStore(folder, makes=True)
    store.write_header(Header(FORMAT, "run", str(DIM), "image", "text", "fp32", kind))
    store.apply(Change(put=[entry(number, vector) for number, vector in enumerate(vectors)]))
    return store


def test_int8_keeps_the_direction() -> None:
    """Guards against one step for all vectors, against lengths that are not 1, and against a row of zeros."""
    vectors = spread(50, 0) * np.logspace(-6, 0, 50, dtype=np.float32)[:, None]
    back = from_int8(to_int8(vectors))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert (back * unit).sum(1).min() > 0.9999
    assert np.array_equal(to_int8(back), to_int8(vectors)), "kept again, the integers are the same"
    assert not from_int8(to_int8(np.zeros((1, 4), np.float32))).any()


def test_bits_are_the_signs() -> None:
    """Guards against bits in another order in queries than in the index, and padding that counts as a difference."""
    vectors = spread(9, 1)
    bits = to_bits(vectors)
    assert bits.shape == (9, 2) and bits.dtype == np.uint64
    slow = ((vectors[:, None] > 0) != (vectors[None] > 0)).sum(-1)
    assert np.array_equal(np.bitwise_count(bits[:, None] ^ bits[None]).sum(-1), slow)


@pytest.mark.parametrize("rows_at_once", [7, 10_000])
def test_candidates_are_the_least_distances(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against candidates that are lost between pieces or at a tie, or that a filter hides."""
    monkeypatch.setattr("chiasm.serve.index.codes.ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr("chiasm.serve.index.codes.FEWEST_PROPOSED", 1)
    vectors, queries, numbers = spread(300, 2), spread(5, 3), np.arange(300) * 2 + 1
    matrix = BitMatrix.empty(DIM).with_rows(numbers[:123], to_bits(vectors[:123]))
    matrix = matrix.with_rows(numbers[123:], to_bits(vectors[123:]))
    for allowed in (None, numbers[::3]):
        kept = np.arange(300) if allowed is None else np.arange(0, 300, 3)
        for query, found in zip(queries, matrix.proposed(queries, 2, allowed), strict=True):
            distances = ((vectors[kept] > 0) != (query > 0)).sum(1)
            expected = sorted(range(len(kept)), key=lambda row: (distances[row], row))[:20]
            assert found.tolist() == sorted(numbers[kept[expected]].tolist())
    assert [len(some) for some in matrix.proposed(queries, 300)] == [300] * 5


@pytest.mark.parametrize("kind", ["float32", "int8", "binary"])
def test_a_store_finds_what_its_vectors_say(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a similarity that is not of the vectors on disk, and against order that depends on the batch."""
    monkeypatch.setattr("chiasm.serve.index.codes.FEWEST_PROPOSED", 40)
    vectors, queries = spread(200, 4), spread(6, 5)
    store = store_of(kind, tmp_path / "index", vectors)
    kept = from_int8(to_int8(vectors)) if kind == "int8" else vectors
    found = store.nearest(queries, 5)
    assert found == [store.nearest(query[None], 5)[0] for query in queries]
    hits = 0
    for query, pairs in zip(queries, found, strict=True):
        for number, cosine in pairs:
            assert cosine == pytest.approx(float(kept[number - 1].astype(np.float64) @ query.astype(np.float64)))
        assert [cosine for _, cosine in pairs] == sorted((cosine for _, cosine in pairs), reverse=True)
        hits += len({number - 1 for number, _ in pairs} & set(order(kept, query)[:5]))
    assert hits == 30 if kind != "binary" else hits >= 20
    store.close()
    again = SqliteStore(tmp_path / "index")
    assert again.kind == kind and again.nearest(queries, 5) == found
    held = {"float32": (Matrix, 4 * DIM), "int8": (Int8Matrix, DIM), "binary": (BitMatrix, 16)}[kind]
    assert type(again.matrix()) is held[0] and again.matrix().vectors[0].nbytes == held[1]
    again.close()


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_changes_are_seen(kind: Kind, tmp_path: Path) -> None:
    """Guards against a removed image that is still a candidate, and a new one that is not."""
    vectors = spread(30, 6)
    store = store_of(kind, tmp_path, vectors[:20])
    assert store.nearest(vectors[3:4], 1)[0][0][0] == 4
    store.apply(Change(put=[entry(number, vectors[number]) for number in range(20, 30)], remove=["/photos/003.png"]))
    assert store.nearest(vectors[25:26], 1)[0][0] == (26, pytest.approx(1, abs=1e-3))
    assert 4 not in [number for number, _ in store.nearest(vectors[3:4], 30)[0]]
    assert (
        len(store.nearest(vectors[3:4], 100)[0])
        == 29
        == len(store.nearest(vectors[3:4], 100, {"folder": "/photos"})[0])
    )
    store.close()


def test_a_header_of_before_keeps_float32() -> None:
    """Guards against indexes of today that no longer open."""
    rows = Header(FORMAT, "run", "3", "image", "text", "fp32").rows()
    del rows["vectors"]
    assert Header.read(rows, "here").vectors == "float32"
    with pytest.raises(InputError):
        Header.read({"format": FORMAT}, "here")
