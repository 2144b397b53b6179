"""Execution in the processes that torchrun started, with one all_reduce of all gradients after the backward pass.

Each process computes a loss whose mean over processes is the loss of the whole batch (`core/distributed.py`).
The all_reduce follows the last part of a step. A process without a row of some task contributes zeros, which
DistributedDataParallel supports only with `find_unused_parameters`.
"""

from collections.abc import Iterable, Sequence
from typing import final

from torch import nn

from chiasm.core.distributed import all_reduce_gradients, barrier, broadcast_from_rank0, mean_over_processes, rank
from chiasm.train.execution.replica import Replica


@final
class Processes(Replica):
    """Several processes of one run, each with the whole model and a share of every batch."""

    @property
    def is_rank0(self) -> bool:
        """Whether this is process 0."""
        return rank() == 0

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One all_reduce over all gradients."""
        all_reduce_gradients(parameters)

    def mean(self, values: Sequence[float]) -> list[float]:
        """One all_reduce, in float64."""
        return mean_over_processes(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """One broadcast, in float64."""
        return broadcast_from_rank0(values)

    def wait(self) -> None:
        """A barrier with a timeout of hours."""
        barrier()
