"""Random numbers of a training step that all processes draw alike: a batch gets the same ones however it is split.

Dropout stays each process's own. What decides which words are hidden, or which pairs are wrong, is drawn for the whole
batch in every process, which then takes the part of its own rows.
"""

import threading

import torch
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient, own_rows, rank, world_size
from chiasm.core.random import counter_seed, seed_torch

_step = threading.local()


def seed_step(*counters: int | str) -> None:
    """Seed torch's generators for a step: dropout of this process, and what all processes draw alike."""
    seed_torch(*counters, rank())
    _step.seed, _step.generators = counter_seed(*counters, 0), {}


def shared_generator(device: torch.device) -> torch.Generator | None:
    """The generator that all processes have in the same state; None, torch's own, where there is one process.

    Without dropout its numbers are those that one process draws after the same `seed_step`.
    """
    if world_size() == 1:
        return None
    if device not in _step.generators:
        _step.generators[device] = torch.Generator(device).manual_seed(_step.seed)
    found: torch.Generator = _step.generators[device]
    return found


class RowDraws:
    """Draws for the entries of a tensor of this process, out of those for the whole batch.

    Args:
        entries: [rows, columns], on the device where the numbers shall lie; the whole batch has the rows of all
            processes, and as many columns as the one with the most.
    """

    def __init__(self, entries: Tensor) -> None:
        rows, columns = entries.shape
        self.own, self.columns, self.device = own_rows(rows), columns, entries.device
        self.whole = (rows, columns)
        if world_size() > 1:
            shapes = gather_with_gradient(torch.tensor([self.whole], device=self.device))
            self.whole = (int(shapes[:, 0].sum()), int(shapes[:, 1].max()))

    def uniform(self) -> Tensor:
        """Numbers in [0, 1), float32 [rows, columns]."""
        return self._mine(torch.rand(self.whole, generator=shared_generator(self.device), device=self.device))

    def below(self, limit: int) -> Tensor:
        """Whole numbers in [0, limit), int64 [rows, columns]."""
        drawn = torch.randint(limit, self.whole, generator=shared_generator(self.device), device=self.device)
        return self._mine(drawn)

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn[self.own, : self.columns]
