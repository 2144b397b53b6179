"""One layer of transformers' cache that writes new keys and values into room it already has.

`DynamicLayer` copies the whole cache of a layer for each new token.

Axis legend: m rows, h heads that keys have, q new, k all and r held positions, c width of a head.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 32
"""Positions that a layer makes room for when it grows; more where a quarter of its length is more."""


class GrowingLayer(DynamicLayer):
    """As `DynamicLayer`, whose `keys` and `values` are views of larger tensors from the second `update` on.

    What is first read is held without room, so that a stored beginning takes its own size. Who assigns other `keys` and
    `values`, as selecting rows does, takes the layer out of its room; the next `update` copies it to a new one.
    """

    _room: tuple[Tensor, Tensor] | None = None
    _views: tuple[Tensor, Tensor] | None = None

    def update(
        self,
        key_states: Float[Tensor, "m h q c"],
        value_states: Float[Tensor, "m h q c"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "m h k c"], Float[Tensor, "m h k c"]]:
        """Add positions; returns keys and values of all. With gradients nothing is written in place."""
        length, new = self.get_seq_length(), (key_states, value_states)
        if not length or torch.is_grad_enabled():
            self._room = self._views = None
            found: tuple[Tensor, Tensor] = super().update(*new, *args, **kwargs)
            return found
        total = length + key_states.shape[2]
        is_ours = self._views is not None and self.keys is self._views[0] and self.values is self._views[1]
        if self._room is None or not is_ours or total > self._room[0].shape[2]:
            assert self.keys is not None and self.values is not None, "a layer of some length"
            self._room = _with_room(self.keys, total), _with_room(self.values, total)
        for room, part in zip(self._room, new, strict=True):
            room[:, :, length:total] = part
        self.keys, self.values = self._views = self._room[0][:, :, :total], self._room[1][:, :, :total]
        return self._views


def _with_room(part: Float[Tensor, "m h k c"], total: int) -> Float[Tensor, "m h r c"]:
    """A copy with room for `total` positions and some more, which are left as they come."""
    rows, heads, length, width = part.shape
    found = part.new_empty(rows, heads, total + max(LEAST_ROOM, total // 4), width)
    found[:, :, :length] = part
    return found
