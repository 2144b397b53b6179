"""Execution in the processes that torchrun started, by DistributedDataParallel (Li et al. 2020, "PyTorch Distributed").

Each process computes a loss whose mean over processes is the loss of the whole batch (`core/distributed.py`). Gradients
are averaged in buckets while the backward pass of a step's last part still runs.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from chiasm.core.distributed import barrier, broadcast_from_rank0, mean_over_processes, rank
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.train.execution.base import Execution, Part
from chiasm.train.execution.replica import Replica
from chiasm.train.execution.teacher import TeacherModel

_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)
"""The argument that torch renamed."""


class PartModule(nn.Module):
    """A module whose forward pass is a part of a step: the entry that DistributedDataParallel and FSDP2 hook into."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Part, teacher: TeacherModel | None) -> dict[str, Tensor]:
        """Losses of the part by task.

        A part without a term of any task gets a zero gradient: its process takes part in the others' reduction.
        """
        losses = dict(part(self.model, teacher))
        if not any(loss.requires_grad for loss in losses.values()):
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            some = next((one for one in trained if not isinstance(one, DTensor)), trained[0])
            losses = {name: loss + 0 * some.sum().to(loss.dtype) for name, loss in losses.items()}
        return losses


class ProcessGroupPlan(Execution):
    """What all plans of several processes have in common."""

    @property
    def is_rank0(self) -> bool:
        """Whether this is process 0."""
        return rank() == 0

    def mean(self, values: Sequence[float]) -> list[float]:
        """One all_reduce, in float64."""
        return mean_over_processes(values)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """One broadcast, in float64."""
        return broadcast_from_rank0(values)

    def wait(self) -> None:
        """A barrier with a timeout of hours."""
        barrier()


@final
class Processes(ProcessGroupPlan, Replica):
    """Several processes of one run, each with the whole model and a share of every batch."""

    def prepare(self, dtype: torch.dtype, checkpoint: Path | None) -> None:
        """As one process, and a wrapper around the computing copy.

        Which parameters a part reaches depends on its rows, so unreached ones are looked for in each step. The wrapper
        has a process group of its own: the losses' collective operations run in the same backward pass.
        """
        super().prepare(dtype, checkpoint)
        group = dist.new_group(timeout=timedelta(seconds=self.run.train.process_timeout_s))
        self.wrapped = DistributedDataParallel(
            PartModule(self.compute.model),
            process_group=group,
            find_unused_parameters=True,
            **cast(dict[str, Any], {_SYNC_BUFFERS: False}),
        )
        self.wrapped.register_comm_hook(group, _mean_in_fp32)

    def losses(self, part: Part) -> Mapping[str, Tensor]:
        """Through the wrapper."""
        found: Mapping[str, Tensor] = self.wrapped(part, self.teacher)
        return found

    def reduces(self, is_last: bool) -> AbstractContextManager[None]:
        """Gradients of all parts but the last are added up first."""
        return nullcontext() if is_last else self.wrapped.no_sync()


def _mean_in_fp32(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Mean of a bucket of gradients over processes; those of two bytes are added up in four."""
    own = bucket.buffer()
    wide = own.to(torch.promote_types(own.dtype, torch.float32)).div_(group.size())
    work = dist.all_reduce(wide, group=group, async_op=True)

    def narrowed(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        return own.copy_(done.value()[0])

    return work.get_future().then(narrowed)
