"""Keys and values of conversations that have been read, so that what begins alike is not computed again.

A conversation is a sequence of symbols: the id of a word, or the content key of an image. Two that begin with the same
symbols have the same keys and values there, whatever follows (causal attention).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.models.pretrained.key_values import KeyValues

Symbol = int | str
"""Token id, or the key of an image's content."""
STORE_BYTES = 256 * 2**20
"""Most bytes that a store holds: 5,800 positions of a language model of 135 million parameters in fp32."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A conversation that has been read.

    Attributes:
        symbols: what was read.
        ends: the position after each symbol; an image takes several.
        state: keys and values of its positions, one row without padding.
    """

    symbols: tuple[Symbol, ...]
    ends: tuple[int, ...]
    state: KeyValues


class PrefixStore:
    """Conversations that were read last, up to a number of bytes. It belongs to one set of weights and one thread.

    Args:
        limit_bytes: the one that was not used for longest is dropped beyond it; 0 keeps none.

    Attributes:
        total_bytes: of all keys and values.
    """

    def __init__(self, limit_bytes: int = STORE_BYTES) -> None:
        self.limit_bytes, self.total_bytes = limit_bytes, 0
        self._kept: OrderedDict[tuple[Symbol, ...], Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def longest(self, symbols: Sequence[Symbol]) -> tuple[Prefix | None, int]:
        """The stored conversation that begins like this one for longest, and the number of symbols that are alike."""
        found, length = None, 0
        for one in self._kept.values():
            alike = common(one.symbols, symbols)
            if alike > length:
                found, length = one, alike
        if found is not None:
            self._kept.move_to_end(found.symbols)
        return found, length

    def put(self, one: Prefix) -> None:
        """Keep a conversation, in place of those that are its beginning."""
        size = _bytes(one.state)
        if size > self.limit_bytes:
            return
        for symbols in [known for known in self._kept if common(known, one.symbols) == len(known)]:
            self.total_bytes -= _bytes(self._kept.pop(symbols).state)
        self._kept[one.symbols] = one
        self.total_bytes += size
        while self.total_bytes > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.total_bytes -= _bytes(oldest.state)


def common(one: Sequence[Symbol], other: Sequence[Symbol]) -> int:
    """Number of symbols that both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def part_of(cache: KeyValues, row: int, start: int, end: int) -> KeyValues:
    """A copy of some positions of one row."""

    def cut(part: Tensor) -> Tensor:
        return part[row : row + 1, :, start:end].clone()

    found = KeyValues()
    for number, layer in enumerate(cache.cache.layers):
        found.cache.update(cut(layer.keys), cut(layer.values), number)
    found.positions = cache.positions[row : row + 1, start:end].clone()
    found.ends = cache.ends[row : row + 1, start:end].clone()
    return found


def _bytes(cache: KeyValues) -> int:
    parts: list[torch.Tensor] = [part for layer in cache.cache.layers for part in (layer.keys, layer.values)]
    return sum(part.nbytes for part in [*parts, cache.positions, cache.ends])
