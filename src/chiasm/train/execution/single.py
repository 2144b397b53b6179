"""Execution in one process."""

from collections.abc import Sequence
from typing import final

from chiasm.train.execution.replica import Replica


@final
class SingleProcess(Replica):
    """One process without communication."""

    @property
    def is_rank0(self) -> bool:
        """Always True."""
        return True

    def mean(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """The values."""
        return list(values)

    def wait(self) -> None:
        """Return at once."""
