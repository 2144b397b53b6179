"""Execution with weights, gradients and optimiser state divided among processes (FSDP2).

Zhao et al. 2023 ("PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"), as `torch.distributed.fsdp`'s
`fully_shard` does it: each process keeps a slice of every parameter in fp32, and a module's parameters are whole, in
the number format of computing, only while it computes. Repeated blocks are divided one by one; everything else is
whole during a step.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from chiasm.core.distributed import all_reduce_gradients, world_size
from chiasm.core.errors import InputError
from chiasm.models.stepwise import Stepwise
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.config import config_of
from chiasm.train.execution.averaging import update_average
from chiasm.train.execution.base import Part
from chiasm.train.execution.processes import PartModule, ProcessGroupPlan
from chiasm.train.execution.replica import add_losses, step_optimizer, training_mode
from chiasm.train.execution.teacher import TeacherModel, given_teacher
from chiasm.train.optimizer import build_optimizer
from chiasm.train.state import checkpoint_tensors, load_checkpoint
from chiasm.train.weighting import LossCombiner


@final
class Sharded(ProcessGroupPlan):
    """Several processes of one run, each with a slice of the weights and a share of every batch.

    `pipeline.model` stays whole in each process, outside the computation: validation and the run folder read it, and it
    gets the weights when they are asked for.

    Args:
        pipeline: its model holds the fp32 weights; its run config names precision, clipping, decay and weighting.
        names: parameters to train.
    """

    def __init__(self, pipeline: Pipeline, names: Sequence[str]) -> None:
        self.model, self.names, self.run = pipeline.model, names, config_of(pipeline)
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._average: dict[str, Tensor] = {}
        self.pipeline = pipeline
        self.teacher: TeacherModel | None = None
        self._check()

    def _check(self) -> None:
        train = self.run.train
        if train.weighting == "pcgrad" or train.conflict_every:
            raise InputError(
                "train.shards with gradients compared between tasks, each of which would be whole",
                "weighting fixed or uncertainty, and train.conflict_every 0",
                "--set train.shards=false",
            )
        if not train.teacher and any(task.learns_from_teacher for task in self.run.tasks.values()):
            raise InputError(
                "train.shards with a task that learns from the moving average, which would be a whole model",
                "train.teacher, or tasks without distil",
                "--set train.shards=false",
            )
        if any(isinstance(module, Stepwise) for module in self.model.modules()):
            raise InputError(
                "train.shards with a codebook of moving averages, which changes without a gradient",
                "a tower without one",
                "--set train.shards=false",
            )

    @property
    def dtype(self) -> torch.dtype:
        """Number format that whole parameters have while they compute."""
        return self._dtype

    def prepare(self, dtype: torch.dtype, checkpoint: Path | None) -> None:
        """Read the checkpoint whole, then divide weights, moments and moving average."""
        whole = build_optimizer(self.model, self.names, self.run.train)
        if checkpoint is not None:
            self._kept = load_checkpoint(checkpoint, self.model, whole)
        self._dtype = dtype
        if self.run.train.teacher:
            self.teacher = given_teacher(Path(self.run.train.teacher), self.pipeline, dtype)
        self.divided = _copy(self.model, dtype, self.names)
        self.module = PartModule(self.divided)
        _divide(self.module, dtype)
        self.parameters = {name: value for name, value in self.divided.named_parameters() if name in set(self.names)}
        self.optimizer = build_optimizer(self.divided, self.names, self.run.train)
        _apart(self.optimizer)
        masters = dict(self.model.named_parameters())
        for name, parameter in self.parameters.items():
            for moment, value in whole.state.get(masters[name], {}).items():
                self.optimizer.state[parameter][moment] = value if value.ndim == 0 else _like(value, parameter)
        if self.run.train.ema_decay:
            average = self._kept.pop("ema", None) or {name: masters[name].detach() for name in self.names}
            self._average = {name: _like(average[name], self.parameters[name]).clone() for name in self.names}
        self.combiner = LossCombiner(self.run.train, self.run.tasks, list(self.parameters.values()))

    def backward(self, parts: Sequence[Part], number: int) -> tuple[float, dict[str, float]]:
        """One backward pass a part, which adds its reduced gradient to the slices.

        Gradients of several parts are not added up first: whole ones would take the memory that slices save.
        """
        training_mode(self.divided, self.run)
        row: dict[str, float] = {}
        for part in parts:
            losses: Mapping[str, Tensor] = self.module(part, self.teacher)
            total = self.combiner.backward(self.divided, losses, 1 / len(parts), number)
            add_losses(row, losses, total, len(parts))
        sliced, plain = _by_type(self.parameters.values())
        all_reduce_gradients(cast(list[nn.Parameter], plain))
        norms = [_norm(sliced), _norm(plain)]
        norm = math.hypot(*norms)
        for some in (sliced, plain):
            torch.nn.utils.clip_grads_with_norm_(some, self.run.train.clip_norm, torch.tensor(norm))
        return norm, dict(zip(row, self.mean(list(row.values())), strict=True))

    def step(self, number: int, rate: Callable[[int], float]) -> None:
        """AdamW on the slices, then the average."""
        step_optimizer(self.optimizer, rate)
        self.divided.clamp_logit_scale()
        for some in _by_type(self._average.values()):
            chosen = {name: value for name, value in self._average.items() if any(value is one for one in some)}
            if chosen:
                update_average(chosen, self.parameters, self.run.train.ema_decay, number)

    def state(self, saved: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Whole weights, moments and average, gathered by all and returned in rank 0."""
        self._gather(self.parameters)
        whole = build_optimizer(self.model, self.names, self.run.train)
        masters = dict(self.model.named_parameters())
        for name, parameter in self.parameters.items():
            moments = {key: _whole(value) for key, value in self.optimizer.state.get(parameter, {}).items()}
            if moments and self.is_rank0:
                whole.state[masters[name]] = moments
        average = {name: _whole(value) for name, value in self._average.items()}
        kept = {**self._kept, "ema": average} if average else self._kept
        return checkpoint_tensors(self.model, whole, kept, saved) if self.is_rank0 else {}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gather the average, or the weights where there is none, into the whole model for the block."""
        self._gather(self._average or self.parameters)
        try:
            yield
        finally:
            if self._average:
                self._gather(self.parameters)

    def keep(self, name: str, parameters: Sequence[str] = ()) -> None:
        """Copy parameters of the whole model, in rank 0."""
        if self.is_rank0:
            named = dict(self.model.named_parameters())
            self._kept[name] = {key: named[key].detach().clone() for key in parameters or self.names}

    def kept(self, name: str) -> Mapping[str, Tensor]:
        """The copy that `keep` made; {} in other processes than rank 0."""
        return self._kept.get(name, {})

    @torch.no_grad()
    def restore(self, name: str) -> None:
        """Gather the weights, and in rank 0 load a kept copy over them."""
        self._gather(self.parameters)
        named = dict(self.model.named_parameters())
        for key, value in self.kept(name).items():
            named[key].copy_(value)

    @torch.no_grad()
    def _gather(self, values: Mapping[str, Tensor]) -> None:
        named = dict(self.model.named_parameters())
        for name, value in values.items():
            named[name].copy_(_whole(value))


def _copy(model: VisionLanguageModel, dtype: torch.dtype, names: Sequence[str]) -> VisionLanguageModel:
    """A copy in which only the named parameters get a gradient, and buffers have the number format of computing."""
    made, chosen = copy.deepcopy(model), set(names)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name in chosen)
    for module in made.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))
    return made


def _divide(module: nn.Module, dtype: torch.dtype) -> None:
    """Divide each block of each list of blocks, the innermost first, then the rest."""
    lists = [one for one in module.modules() if isinstance(one, nn.ModuleList) and len(one) > 1]
    for part in (*(block for blocks in reversed(lists) for block in blocks), module):
        if any(_is_divisible(parameter) for parameter in part.parameters()):
            _shard(part, dtype)


def _shard(module: nn.Module, dtype: torch.dtype) -> None:
    device = next(module.parameters()).device.type
    fully_shard(
        module,
        mesh=init_device_mesh(device, (world_size(),)),
        mp_policy=MixedPrecisionPolicy(
            param_dtype=None if dtype is torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
        ignored_params={parameter for parameter in module.parameters() if not _is_divisible(parameter)},
    )


def _is_divisible(parameter: Tensor) -> bool:
    """Scalars (the temperature) and empty parameters stay whole in every process."""
    return parameter.ndim > 0 and parameter.numel() > 0


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, divided as a parameter is."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.detach(), parameter.device_mesh, parameter.placements)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach()


def _by_type(values: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Divided ones, and whole ones: torch's fused operations take one kind at a time."""
    listed = list(values)
    return [one for one in listed if isinstance(one, DTensor)], [one for one in listed if not isinstance(one, DTensor)]


def _norm(parameters: Sequence[Tensor]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(_whole(torch.nn.utils.get_total_norm(gradients))) if gradients else 0.0


def _apart(optimizer: torch.optim.Optimizer) -> None:
    """Groups of parameters of one type each."""
    for group in list(optimizer.param_groups):
        sliced, plain = _by_type(group["params"])
        if sliced and plain:
            group["params"] = sliced
            optimizer.add_param_group({**group, "params": plain})
