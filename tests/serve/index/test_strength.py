"""A search that finds nothing says so: results are judged against those of unrelated names."""

from pathlib import Path

import numpy as np
import pytest

from chiasm.serve.engine import Model
from chiasm.serve.index import Index, make_index
from chiasm.serve.index import index as searching
from chiasm.serve.index import strength as judging
from chiasm.serve.index.header import FORMAT, Header
from chiasm.serve.index.sqlite import SqliteStore
from chiasm.serve.index.store import Change, Entry, Vector
from chiasm.serve.index.strength import (
    FEWEST,
    UNRELATED,
    reference_names,
    reference_vectors,
    standing_of_names,
    strength,
)

DIM = 32


def units(count: int, seed: int) -> Vector:
    drawn = np.random.default_rng(seed).normal(size=(count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def store_of(vectors: Vector) -> SqliteStore:
    store = SqliteStore(None)
    store.write_header(Header(FORMAT, "run", str(DIM), "image", "text", "fp32"))
    store.apply(Change(put=[Entry(f"/p/{n}.png", f"{n:064x}", 1, "", one) for n, one in enumerate(vectors)]))
    return store


def judged(store: SqliteStore, names: Vector, query: Vector, count: int = 10) -> judging.Strength:
    (hits,) = store.nearest(query[None], count)
    return strength(store, names, standing_of_names(store, names), query, hits)


def test_what_is_there_is_told_from_what_is_not() -> None:
    """Guards against a remark on every search or on none, and a share that is not the rank among the names."""
    pictures, names = units(300, 1), units(160, 2)
    store = store_of(pictures)
    near = pictures[:20] + 0.1 * units(20, 3)
    found = [judged(store, names, one / np.linalg.norm(one)) for one in near.astype(np.float32)]
    assert not any(one.is_weak for one in found)
    assert max(one.unrelated for one in found) == 0 and all(one.fits[0] for one in found)
    # Unrelated words are one more name: their rank is uniform, so 1 - UNRELATED of them are called weak.
    foreign = [judged(store, names, one) for one in units(120, 4)]
    assert np.mean([one.is_weak for one in foreign]) == pytest.approx(1 - UNRELATED, abs=0.15)
    assert np.mean([one.unrelated for one in foreign]) == pytest.approx(0.5, abs=0.1)
    assert all(any(one.fits) and len(one.fits) == 10 and one.names == 160 for one in foreign)


def test_later_places_are_cut() -> None:
    """Guards against a cut at the first place's limit, which loses good pictures, and against no cut at all."""
    query = units(1, 5)[0]
    good = query + 0.3 * units(4, 6)
    pictures = np.concatenate([units(300, 7), good / np.linalg.norm(good, axis=1, keepdims=True)]).astype(np.float32)
    found = judged(store_of(pictures), units(160, 8), query, 12)
    assert found.fits[:4] == (True,) * 4 and sum(found.fits) < 9, found


def test_a_picture_that_is_near_to_every_text_fits_none() -> None:
    """Guards against raw cosines: one picture in the middle of all texts would be everybody's best match."""
    middle = units(1, 9)[0]
    names = units(160, 10) + 2 * middle
    names = (names / np.linalg.norm(names, axis=1, keepdims=True)).astype(np.float32)
    pictures = np.concatenate([middle[None], units(200, 11)])
    store = store_of(pictures)
    (hits,) = store.nearest(names[:1], 1)
    assert hits[0][0] == 1 and hits[0][1] > 0.8, "by its cosine the middle is a good match"
    assert judged(store, names[1:], names[0], 1).unrelated > 0.1
    # A picture of what is meant, at a smaller cosine than any name has with the middle, is no weak match.
    query = pictures[50] + 0.9 * units(1, 13)[0]
    query /= np.linalg.norm(query)
    found = judged(store, names, query, 1)
    assert float(query @ pictures[50]) < float((names @ middle).min()) + 0.1 and not found.is_weak, found


def test_a_model_that_cannot_read_the_names_judges_nothing(index: Index, model: Model) -> None:
    """Guards against a judgement by names that are all the same unknown word to a model of coloured shapes."""
    assert reference_vectors(model) is None
    hits = index.search("a red circle")
    assert hits and index.strength("a red circle", hits) is None


def test_names_are_encoded_once(model: Model, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against 200 texts encoded at every search, and names of one model in another's cache."""
    names = reference_names()
    assert len(names) == len(set(names)) == 200 >= FEWEST and {"a robin", "a bullfrog"} <= set(names)
    monkeypatch.setattr(judging, "MOST_PIECES", 99)
    first = reference_vectors(model)
    assert first is not None and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    monkeypatch.setattr(model, "encode_text", None)
    second = reference_vectors(model)
    assert second is not None and np.array_equal(first, second)


def test_what_names_find_is_remembered_until_pictures_change(
    model: Model, files: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against 200 searches at every search, and a judgement by pictures that are gone."""
    monkeypatch.setattr(judging, "MOST_PIECES", 99)
    calls: list[object] = []
    kept = standing_of_names
    monkeypatch.setattr(
        searching,
        "standing_of_names",
        lambda store, names, where=None: calls.append(where) or kept(store, names, where),
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, content in enumerate(files[:4]):
        (folder / f"{number}.png").write_bytes(content)
    made, _ = make_index(tmp_path / "index", [folder], model)
    with made:
        for _ in range(2):
            hits = made.search("a red circle")
            judged = made.strength("a red circle", hits)
            assert judged is not None and len(judged.fits) == len(hits) == 4
        assert calls == [None]
        (folder / "new.png").write_bytes(files[4])
        made.add([folder])
        assert made.strength("a red circle", made.search("a red circle")) is not None and calls == [None, None]
        where = {"folder": "photos"}
        assert made.strength("a red circle", made.search("a red circle", where=where), where) is not None
        assert calls == [None, None, where]
