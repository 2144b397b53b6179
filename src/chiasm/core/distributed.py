"""Collective operations between the processes of one run. Without torch.distributed, each one does nothing.

The contract that makes W processes equal one: each process computes a loss whose mean over processes is the loss of
the whole batch, calls backward, then `all_reduce_gradients`. Processes may hold unequally many rows, or none:
`mean_over_terms` divides by the terms of all, and `gather_with_gradient` takes parts of any length.

Every process must call the same functions in the same order, even with no rows of its own; otherwise the others wait
for it. That holds for the backward pass too, in which each gathered tensor is one more collective. Autograd runs
backward nodes in the reverse order of their creation, so the order is the same in all processes if each of them has
every node. A process without rows therefore passes empty tensors through the same modules.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from chiasm.core.errors import JobError
from chiasm.core.types import Tokens

ALONE = timedelta(hours=12)
"""Timeout of `barrier`: rank 0 may measure a model, or encode with frozen towers, for hours."""
_MOST_AXES = 7
_barrier_group: list[Any] = []
"""The process group with the timeout `ALONE`; empty outside `process_group`."""


def world_size() -> int:
    """Number of processes in the run, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def process_group(timeout_s: float) -> Iterator[None]:
    """Join the process group of torchrun within the block; does nothing in a process that was started alone.

    A group that already exists is used and not destroyed.

    Args:
        timeout_s: timeout of a collective within a step, in seconds.

    Raises:
        JobError: another process has ended, or the timeout passed.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=timeout_s))
    _barrier_group.append(dist.new_group(backend="gloo", timeout=ALONE))
    try:
        yield
    except RuntimeError as error:
        if _is_peer_failure(error):
            raise JobError(
                f"process {rank()} of {world_size()} waited for the others: {str(error).splitlines()[0]}\n"
                "  do: see what the other processes say; if they are only slow, raise train.process_timeout_s "
                f"({timeout_s:g}); then go on from the last checkpoint with --resume"
            ) from error
        raise
    finally:
        _barrier_group.clear()
        dist.destroy_process_group()


def _is_peer_failure(error: RuntimeError) -> bool:
    signs = ("timed out", "timeout", "connection closed by peer", "connection reset")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


def barrier() -> None:
    """Wait until every process has called this, for at most `ALONE`."""
    if world_size() > 1:
        dist.barrier(group=_barrier_group[0] if _barrier_group else None)


def gather_at_rank0(value: Any) -> list[Any]:
    """The values of all processes by rank, in rank 0, and [] in the others; waits for at most `ALONE`.

    Values are pickled: tensors must be on the CPU.
    """
    if world_size() == 1:
        return [value]
    found = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, found, dst=0, group=_barrier_group[0] if _barrier_group else None)
    return found or []


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


def broadcast_from_rank0(values: Sequence[float]) -> list[float]:
    """Return rank 0's values in every process; use it for decisions made from clocks or measurements."""
    if world_size() == 1:
        return list(values)
    message = _numbers(values)
    dist.broadcast(message, src=0)
    return message.tolist()


def sum_over_processes(values: Sequence[float]) -> list[float]:
    """Return the sums over processes, place by place."""
    if world_size() == 1:
        return list(values)
    message = _numbers(values)
    dist.all_reduce(message)
    return message.tolist()


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Return the means over processes, place by place."""
    return [total / world_size() for total in sum_over_processes(values)]


def mean_of_tensor(value: Tensor) -> Tensor:
    """Return the mean of a tensor over processes; `value` itself where there is one process."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def mean_over_terms(total: Float[Tensor, "..."], count: int | Tensor) -> Float[Tensor, "..."]:
    """Sum of this process's terms, and their number -> the mean over the terms of all processes, 0 without any.

    The value is that of the whole batch in every process. The gradient is W times that of this process's terms in it,
    so that the mean over processes is the whole gradient.
    """
    if world_size() == 1:
        return total / (count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1))
    return share_of_mean(total, int(sum_over_processes([float(count)])[0]))


def share_of_mean(total: Float[Tensor, "..."], count: int) -> Float[Tensor, "..."]:
    """`mean_over_terms` where `count`, the terms of all processes, is known already."""
    count = max(count, 1)
    if world_size() == 1:
        return total * (1 / count)
    whole = total.detach().to(torch.float64)
    dist.all_reduce(whole)
    share = total * (world_size() / count)
    return share + ((whole / count).to(total.dtype) - share.detach())


class _Gather(torch.autograd.Function):
    """All processes' rows in rank order; backward returns each process the summed gradient of its own rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = local.new_zeros(longest, *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.split(ctx.counts)[rank()], None


def gather_with_gradient(local: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """Return the rows of all processes, in rank order; `local` itself where there is one process.

    Processes may pass unequally many rows, or none. Differentiable: the gradient of a row is summed over the processes
    that used it. What comes out belongs into the loss of every process, so that each has the backward node. Tensors of
    whole numbers and of truth values pass too.

    Raises:
        JobError: the rows differ in shape from process to process.
    """
    if world_size() == 1:
        return local
    if local.dtype == torch.bool:
        return gather_with_gradient(local.to(torch.uint8)).bool()
    if local.dtype in (torch.bfloat16, torch.float16):  # gloo has neither
        return gather_with_gradient(local.float()).to(local.dtype)
    stated = [local.requires_grad, local.ndim, *local.shape, *[0] * (_MOST_AXES - local.ndim)]
    message = torch.tensor(stated, device=local.device, dtype=torch.int64)
    gathered = [torch.empty_like(message) for _ in range(world_size())]
    dist.all_gather(gathered, message)
    found = [one.tolist() for one in gathered]
    shapes = [tuple(one[2 : 2 + one[1]]) for one in found]
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise JobError(f"processes hold rows of unequal shape {shapes}: only the number of rows may differ")
    if any(one[0] for one in found) and not local.requires_grad:
        local = local.detach().requires_grad_()  # the backward node, which the others wait for
    rows: Tensor = _Gather.apply(local, [shape[0] for shape in shapes])  # type: ignore[no-untyped-call]
    return rows


def gather_tokens(tokens: Tokens) -> Tokens:
    """`gather_with_gradient` of encoded rows; shorter ones are padded to the longest of all processes."""
    if world_size() == 1:
        return tokens
    length = tokens.values.shape[1]
    lengths = gather_with_gradient(torch.tensor([length], device=tokens.values.device))
    more = int(lengths.max()) - length
    places = None if tokens.places is None else F.pad(tokens.places, (0, 0, 0, 0, 0, more))
    padded = Tokens(F.pad(tokens.values, (0, 0, 0, more)), F.pad(tokens.is_real, (0, more)), tokens.pooled, places)
    return padded.each(gather_with_gradient)


def own_rows(count: int) -> slice:
    """Where this process's `count` rows stand among those that `gather_with_gradient` returns."""
    if world_size() == 1:
        return slice(0, count)
    counts = sum_over_processes([float(count) if number == rank() else 0.0 for number in range(world_size())])
    start = int(sum(counts[: rank()]))
    return slice(start, start + count)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes, in one message; call between backward and the step.

    Every process passes the same parameters in the same order. A parameter without gradient here counts as zero if
    another process has one, and keeps none if no process has.
    """
    if world_size() == 1:
        return
    listed = [parameter for parameter in parameters if parameter.requires_grad]
    if not listed:
        return
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in listed) else torch.float32
    has_gradient = torch.tensor([p.grad is not None for p in listed], device=listed[0].device, dtype=dtype)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in listed]
    message = torch.cat([has_gradient, *(part.flatten().to(has_gradient) for part in parts)])
    dist.all_reduce(message)
    anywhere, *means = torch.split(message, [len(listed), *(p.numel() for p in listed)])
    for parameter, mean, used in zip(listed, means, anywhere.tolist(), strict=True):
        if used:
            parameter.grad = _mean_as(mean, parameter)


def _mean_as(total: Float[Tensor, " k"], parameter: nn.Parameter) -> Tensor:
    return (total / world_size()).view_as(parameter).to(parameter.dtype)
