"""What several processes of one run say to each other. Without torch.distributed, each function does nothing.

The contract that makes W processes equal one: each process computes a loss whose mean over processes is the loss of
the whole batch, calls backward, then `average_gradients`. `gather_with_gradient` sums what all processes ask of a
row, so contrast across processes obeys it too.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from chiasm.core.errors import JobError


def world_size() -> int:
    """Number of processes in the run, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Within the block, be one of the processes that torchrun started; does nothing for a process started alone.

    A group that the caller has made is used, and left to the caller.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The first process measures the finished model alone, and encoding frozen towers may take hours.
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=12))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


def said_by_first(values: Sequence[float]) -> list[float]:
    """Return what the first process passed, in every process: for what clocks and measurements decide."""
    if world_size() == 1:
        return list(values)
    message = _numbers(values)
    dist.broadcast(message, src=0)
    return message.tolist()


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Return the means over processes, place by place."""
    if world_size() == 1:
        return list(values)
    message = _numbers(values)
    dist.all_reduce(message)
    return (message / world_size()).tolist()


def mean_of_tensor(value: Tensor) -> Tensor:
    """Return the mean of a tensor over processes; `value` itself where there is one process."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


class _Gather(torch.autograd.Function):
    """All processes' rows in rank order; backward returns each process the summed gradient of its own rows."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local: Tensor) -> Tensor:
        rows = local.new_empty(world_size() * local.shape[0], *local.shape[1:])
        dist.all_gather(list(rows.chunk(world_size())), local.contiguous())
        return rows

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather_with_gradient(local: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "wn ..."]:
    """Return the rows of all processes, [W * n, ...] in rank order; `local` itself where there is one process.

    Differentiable: the gradient of a row is summed over the processes that used it. Integer tensors pass too.

    Raises:
        JobError: the processes hold tensors of different shape (compared first, because gathering them would hang).
    """
    if world_size() == 1:
        return local
    shape = torch.tensor([local.ndim, *local.shape, *[0] * (7 - local.ndim)], device=local.device)
    shapes = [torch.empty_like(shape) for _ in range(world_size())]
    dist.all_gather(shapes, shape)
    if any(not torch.equal(other, shape) for other in shapes):
        listed = [tuple(other[1 : 1 + int(other[0])].tolist()) for other in shapes]
        raise JobError(f"processes hold parts of unequal shape {listed}: give every process equally many rows")
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes, in one message; call between backward and the step.

    Every process passes the same parameters in the same order. A parameter without gradient here counts as zero if
    another process has one, and keeps none if no process has.
    """
    if world_size() == 1:
        return
    listed = [parameter for parameter in parameters if parameter.requires_grad]
    if not listed:
        return
    has_gradient = torch.tensor([float(p.grad is not None) for p in listed], device=listed[0].device)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in listed]
    message = torch.cat([has_gradient, *(part.flatten().to(has_gradient) for part in parts)])
    dist.all_reduce(message)
    anywhere, *means = torch.split(message, [len(listed), *(p.numel() for p in listed)])
    for parameter, mean, used in zip(listed, means, anywhere.tolist(), strict=True):
        if used:
            parameter.grad = _mean_as(mean, parameter)


def _mean_as(total: Float[Tensor, " k"], parameter: nn.Parameter) -> Tensor:
    return (total / world_size()).view_as(parameter).to(parameter.dtype)
