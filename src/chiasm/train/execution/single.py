"""Execution in one process."""

from collections.abc import Iterable, Sequence
from typing import final

from torch import nn

from chiasm.train.execution.replica import Replica


@final
class SingleProcess(Replica):
    """One process without communication."""

    @property
    def is_rank0(self) -> bool:
        """Always True."""
        return True

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave the gradients as they are: they are those of the whole batch."""

    def mean(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def wait(self) -> None:
        """Return at once."""
