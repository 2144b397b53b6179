"""The store of beginnings: the longest is found, what was used last stays, and its bytes are bounded."""

import pytest
import torch

from chiasm.tasks.prefix_store import Prefix, PrefixStore, common, part_of

transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
from chiasm.models.encoders.language_model import KeyValues  # noqa: E402

POSITION_BYTES = 2 * 2 * 2 * 4 * 4 + 16
"""Two layers of keys and values, two heads of four numbers; the place, and its shift."""


def state(length: int, rows: int = 1) -> KeyValues:
    made = KeyValues()
    for layer in range(2):
        values = torch.arange(rows * 2 * length * 4).float().view(rows, 2, length, 4) + 1000 * layer
        made.cache.update(values, -values, layer)
    made.add_positions(torch.arange(length).expand(rows, -1))
    return made


def prefix(*symbols: int | str) -> Prefix:
    return Prefix(symbols, tuple(range(1, len(symbols) + 1)), state(len(symbols)))


def test_the_longest_beginning_is_found() -> None:
    store = PrefixStore()
    for one in (prefix(1, 2), prefix(1, 2, "a", 3), prefix(1, 2, "b", 3), prefix(7)):
        store.put(one)
    assert len(store) == 3, "(1, 2) is the beginning of another"
    for symbols, expected in (((1, 2, "b", 4, 5), 3), ((1, 2), 2), ((1, 9), 1), ((8,), 0), ((), 0)):
        found, length = store.longest(symbols)
        assert length == expected and (found is None) == (expected == 0)
        assert found is None or found.symbols[:length] == symbols[:length]


def test_what_was_used_last_stays() -> None:
    store = PrefixStore(3 * 2 * POSITION_BYTES)
    for number in range(3):
        store.put(prefix(number, 0))
    assert len(store) == 3 and store.total_bytes == 6 * POSITION_BYTES
    store.longest((0, 5))
    store.put(prefix(9, 0))
    assert [store.longest((number, 0))[1] for number in (0, 1, 2, 9)] == [2, 0, 2, 2]
    store.put(prefix(*range(100, 108)))
    assert len(store) == 3, "what is larger than the store is not kept, and nothing is dropped for it"
    assert PrefixStore(0).longest((1,)) == (None, 0)


def test_common() -> None:
    assert [common(one, (1, "a", 3)) for one in ((1, "a", 3, 4), (1, "b"), (), (2,))] == [3, 1, 0, 0]


def test_a_part_is_a_copy() -> None:
    whole = state(5, rows=3)
    part = part_of(whole, 1, 2, 4)
    assert part.length == 2 and part.positions.tolist() == [[2, 3]]
    for mine, theirs in zip(part.cache.layers, whole.cache.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys[1:2, :, 2:4]) and torch.equal(mine.values, -mine.keys)
        mine.keys.zero_()
        assert theirs.keys[1, :, 2:4].abs().sum() > 0
