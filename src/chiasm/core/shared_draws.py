"""Random numbers of a training step that do not depend on how a batch is split over processes.

Each process draws the numbers of the whole batch (which words are masked, which pairs are mismatched) from one shared
seed, and uses those of its own rows. Dropout differs between processes.
"""

import threading

import torch
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient, own_rows, rank, world_size
from chiasm.core.random import counter_seed, seed_torch

_step = threading.local()


def seed_step(*counters: int | str) -> None:
    """Seed a step: torch's generators by rank, for dropout, and the generators of `shared_generator` without it."""
    seed_torch(*counters, rank())
    _step.seed, _step.generators = counter_seed(*counters, 0), {}


def shared_generator(device: torch.device) -> torch.Generator | None:
    """A generator with the same state in all processes; None, which means torch's own, with a single process.

    Without dropout it gives the numbers that a single process draws after the same `seed_step`.
    """
    if world_size() == 1:
        return None
    if device not in _step.generators:
        _step.generators[device] = torch.Generator(device).manual_seed(_step.seed)
    found: torch.Generator = _step.generators[device]
    return found


class RowDraws:
    """Random numbers for a tensor of this process, cut out of those for the whole batch.

    Args:
        entries: [rows, columns], on the device to draw on. The whole batch has the rows of all processes, and the
            largest number of columns.
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
