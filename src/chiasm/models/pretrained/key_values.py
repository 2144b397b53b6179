"""Keys and values of what a language model of transformers has read.

Axis legend: m rows, q new and k all positions, h heads that keys have, c width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class KeyValues:
    """Keys and values of the positions that a language model has read, by layer; grows with each call.

    Attributes:
        cache: transformers' own, whose layers hold [m, heads, k, c] each.
        positions: int64 [m, k], place of each in its text.
        ends: int64 [m, k], the largest of the positions that each has on several axes: words stand behind the largest
            of a row, which is less than `positions` counts behind an image, whose rows and columns take fewer places
            than it has tokens. Of a language model with one axis the same as `positions`.
    """

    def __init__(self) -> None:
        from transformers.cache_utils import Cache

        from chiasm.models.pretrained.growing_layer import GrowingLayer

        self.cache: Any = Cache(layer_class_to_replicate=GrowingLayer)
        self.positions = self.ends = torch.zeros(0, 0, dtype=torch.long)

    @property
    def length(self) -> int:
        """Positions so far, padding included."""
        return self.positions.shape[1]

    def add_positions(
        self, positions: Int[Tensor, "m q"], axes: Int[Tensor, "m q a"] | None = None
    ) -> Int[Tensor, "m k"]:
        """Note the places of new positions, also on all axes where they have several; returns `positions` of all."""
        ends = positions if axes is None else axes.amax(2)
        self.positions = torch.cat([self.positions, positions], 1) if self.length else positions
        self.ends = torch.cat([self.ends, ends], 1) if self.ends.shape[1] else ends
        return self.positions

    def axes_of_words(self, positions: Int[Tensor, "m q"], axes: int) -> Int[Tensor, "m q a"]:
        """Places on all axes of words that follow what was read."""
        found = positions
        if self.length:
            found = positions + self.ends.amax(1, keepdim=True) - self.positions[:, -1:]
        return found[..., None].expand(-1, -1, axes)

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Keep (and repeat) rows."""
        self._change(lambda part: part[rows])
        self.positions, self.ends = self.positions[rows], self.ends[rows]

    def gather(self, rows: Int[Tensor, " m"], places: Int[Tensor, "m k"], is_real: Bool[Tensor, "m k"]) -> None:
        """Make row i the given places of row `rows[i]`; what is not real is padding, at place 0."""
        row = rows[:, None]
        self._change(lambda part: part[row, :, places].transpose(1, 2).contiguous())
        self.positions, self.ends = (part[row, places].where(is_real, 0) for part in (self.positions, self.ends))

    def keep_last(self, length: int) -> None:
        """Drop all but the last `length` positions."""
        self._change(lambda part: part[:, :, part.shape[2] - length :])
        start = self.length - length
        self.positions, self.ends = self.positions[:, start:], self.ends[:, start:]

    def drop_last(self) -> None:
        """Drop the last position."""
        self._change(lambda part: part[:, :, :-1])
        self.positions, self.ends = self.positions[:, :-1], self.ends[:, :-1]

    def append_rows(self, other: "KeyValues") -> None:
        """Add the rows of another; the shorter of the two is padded on the left."""
        longest = max(self.length, other.length)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([_padded_left(layer.keys, longest) for layer in (mine, theirs)])
            mine.values = torch.cat([_padded_left(layer.values, longest) for layer in (mine, theirs)])
        room = [(longest - one.length, 0) for one in (self, other)]
        self.positions, self.ends = (
            torch.cat(
                [nn.functional.pad(getattr(one, name), more) for one, more in zip((self, other), room, strict=True)]
            )
            for name in ("positions", "ends")
        )

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer in self.cache.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)


def _padded_left(part: Float[Tensor, "m h k c"], length: int) -> Float[Tensor, "m h l c"]:
    return nn.functional.pad(part, (0, 0, length - part.shape[2], 0))
