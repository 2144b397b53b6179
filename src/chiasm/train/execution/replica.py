"""Execution with all weights in every process; a subclass for several processes reduces gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from chiasm.models.stepwise import finish_step
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.adaptation import frozen_towers
from chiasm.train.config import RunConfig, config_of
from chiasm.train.execution.averaging import AveragedModel, update_average
from chiasm.train.execution.base import Execution, Part
from chiasm.train.execution.precision import ComputeCopy
from chiasm.train.execution.teacher import TeacherModel, given_teacher
from chiasm.train.optimizer import build_optimizer
from chiasm.train.state import checkpoint_tensors, load_checkpoint
from chiasm.train.weighting import LossCombiner


class Replica(Execution):
    """Each process has the whole model, optimiser and average, and makes the same step.

    Args:
        pipeline: its model holds the fp32 weights; its run config names precision, clipping, decay and weighting.
        names: parameters to train.
    """

    def __init__(self, pipeline: Pipeline, names: Sequence[str]) -> None:
        self.model, self.names, self.run = pipeline.model, names, config_of(pipeline)
        self.pipeline = pipeline
        self.teacher: TeacherModel | None = None
        self._kept: dict[str, dict[str, Tensor]] = {}

    def losses(self, part: Part) -> Mapping[str, Tensor]:
        """The losses of a part, through the module whose backward pass reduces gradients over processes."""
        return part(self.compute.model, self.teacher)

    def reduces(self, is_last: bool) -> AbstractContextManager[None]:
        """Within the block, backward passes through `losses` reduce gradients over processes if `is_last`."""
        return nullcontext()

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the computing copy."""
        return self.compute.dtype

    def prepare(self, dtype: torch.dtype, checkpoint: Path | None) -> None:
        """Build the optimiser, the computing copy, and the teacher where a task distils."""
        self.optimizer = build_optimizer(self.model, self.names, self.run.train)
        if checkpoint is not None:
            self._kept = load_checkpoint(checkpoint, self.model, self.optimizer)
        elif self.run.train.ema_decay:
            self.keep("ema")
        self.compute = ComputeCopy(self.model, dtype, self.names)
        self.compute.refresh()
        self.combiner = LossCombiner(self.run.train, self.run.tasks, [computed for _, computed in self.compute.pairs])
        if self.run.train.teacher:
            self.teacher = given_teacher(Path(self.run.train.teacher), self.pipeline, dtype)
        elif any(task.learns_from_teacher for task in self.run.tasks.values()):
            self.teacher = AveragedModel(self.compute.model, self.names)
            self.teacher.refresh(self._kept["ema"])

    def backward(self, parts: Sequence[Part], number: int) -> tuple[float, dict[str, float]]:
        """One backward pass a part; gradients are reduced once, in that of the last, moved to fp32 and clipped.

        Where the tasks' gradients are compared, the combiner reduces them.
        """
        model, compares = training_mode(self.compute.model, self.run), self.combiner.compares(number)
        row: dict[str, float] = {}
        for place, part in enumerate(parts, 1):
            with self.reduces(place == len(parts)):
                losses = part(model, self.teacher) if compares else self.losses(part)
                total = self.combiner.backward(model, losses, 1 / len(parts), number)
            add_losses(row, losses, total, len(parts))
        if compares:
            row |= self.combiner.finish(list(self.run.tasks))
        self.compute.gradients_to_master()
        trained = [kept for kept, _ in self.compute.pairs]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.run.train.clip_norm))
        return norm, dict(zip(row, self.mean(list(row.values())), strict=True))

    def step(self, number: int, rate: Callable[[int], float]) -> None:
        """AdamW on the fp32 weights, what changes without it, rounding into the computing copy, then the average."""
        step_optimizer(self.optimizer, rate)
        self.model.clamp_logit_scale()
        finish_step(self.model, self.compute.model)
        self.compute.refresh()
        average = self._kept.get("ema")
        if average:
            update_average(average, dict(self.model.named_parameters()), self.run.train.ema_decay, number)
            if isinstance(self.teacher, AveragedModel):
                self.teacher.refresh(average)

    def state(self, saved: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Weights, optimiser moments and kept copies, of rank 0: the others hold the same."""
        return checkpoint_tensors(self.model, self.optimizer, self._kept, saved) if self.is_rank0 else {}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchange the model's weights for the average within the block."""
        average = self._kept.get("ema")
        if not average:
            yield
            return
        own = self._copies(self.names)
        self._load(average)
        try:
            yield
        finally:
            self._load(own)

    def keep(self, name: str, parameters: Sequence[str] = ()) -> None:
        """Copy parameters of the fp32 model, on its device."""
        self._kept[name] = self._copies(parameters or self.names)

    def kept(self, name: str) -> Mapping[str, Tensor]:
        """The copy that `keep` made."""
        return self._kept.get(name, {})

    def restore(self, name: str) -> None:
        """Load a kept copy into the fp32 model; the computing copy is not refreshed."""
        self._load(self.kept(name))

    def _copies(self, names: Sequence[str]) -> dict[str, Tensor]:
        named = dict(self.model.named_parameters())
        return {name: named[name].detach().clone() for name in names}

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        named = dict(self.model.named_parameters())
        for name, value in weights.items():
            named[name].copy_(value)


def training_mode(model: VisionLanguageModel, run: RunConfig) -> VisionLanguageModel:
    """The model in training mode; frozen towers compute as in evaluation, without dropout."""
    model.train()
    for tower in frozen_towers(run.model):
        model.get_submodule(tower.removesuffix(".")).eval()
    return model


def add_losses(row: dict[str, float], losses: Mapping[str, Tensor], total: Tensor, parts: int) -> None:
    """Add each task's loss and their sum in one of so many parts to the row that is logged, as means over parts."""
    for name, value in {**{f"{task}_loss": loss for task, loss in losses.items()}, "loss": total}.items():
        row[name] = row.get(name, 0.0) + value.item() / parts


def step_optimizer(optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> None:
    """Update the weights with the learning rate of each depth, and clear the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate(group["depth"])
    optimizer.step()
    optimizer.zero_grad()
