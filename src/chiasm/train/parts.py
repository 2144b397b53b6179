"""The parts that a step's batch is cut into: each is encoded once, and has a loss for each task."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chiasm.core.distributed import sum_over_processes
from chiasm.core.shared_draws import seed_step
from chiasm.core.types import Batch, Encoded
from chiasm.models.patch_dropout import switch_patch_dropout
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.batching import to_model_range
from chiasm.tasks.base import Task, Teacher
from chiasm.tasks.contrast import ContrastTask
from chiasm.train.execution.base import Part
from chiasm.train.execution.teacher import TeacherModel
from chiasm.train.gradient_cache import Embedded, GradientCache
from chiasm.train.weighting import part_factors


class Step:
    """The parts of one step in this process.

    Args:
        tasks: name -> task.
        batches: this process's share of each part.
        device: of the model.
        dtype: of the model's floating-point inputs.
        is_exact: whether contrast is over all parts (`train.exact_contrast`); else within each.
        drops_patches: whether towers with patch dropout use it in this step.
        counters: seed of the step's draws (`core.random`). Where a part is embedded twice, its number is added to them,
            so that dropout draws the same both times.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[Any]],
        batches: Sequence[Batch],
        device: torch.device,
        dtype: torch.dtype,
        is_exact: bool,
        drops_patches: bool,
        counters: Sequence[int | str],
    ) -> None:
        self.drops_patches = drops_patches
        self.tasks, self.batches, self.device, self.dtype, self.counters = tasks, batches, device, dtype, counters
        self.factors = part_factors(tasks, batches)
        seed_step(*counters)
        joint = {name: task for name, task in tasks.items() if isinstance(task, ContrastTask)}
        self.contrasts = _with_captions(joint, batches) if is_exact and len(batches) > 1 else {}
        self.cache = GradientCache(self.contrasts, self._embedded, len(batches))

    def parts(self) -> list[Part]:
        """For `Execution.backward`, which computes them in order."""
        losses = self._joint_losses if self.contrasts else self._losses
        return [partial(losses, place) for place in range(len(self.batches))]

    def _losses(self, place: int, model: VisionLanguageModel, teaching: TeacherModel | None) -> dict[str, Tensor]:
        """Loss of each task, times its factor; inputs are encoded once for all of them."""
        batch, encoded, teacher = self._encoded(place, model, teaching)
        factor = self.factors[place]
        found = {name: task.loss(model, encoded, batch, teacher)["loss"] for name, task in self.tasks.items()}
        return {name: loss * factor[name] for name, loss in found.items()}

    def _joint_losses(self, place: int, model: VisionLanguageModel, teaching: TeacherModel | None) -> dict[str, Tensor]:
        """As `_losses`; of a contrast the value over all parts."""
        cached = self.cache.losses(model, teaching)
        seed_step(*self.counters, place)
        batch, encoded, teacher = self._encoded(place, model, teaching)
        # First, as in the pass before: what the other tasks draw comes after.
        joint = {
            name: cached[name].of_part(place, task.embed(model, encoded, batch, None))
            for name, task in self.contrasts.items()
        }
        return {
            name: joint[name]
            if name in joint
            else task.loss(model, encoded, batch, teacher)["loss"] * self.factors[place][name]
            for name, task in self.tasks.items()
        }

    def _embedded(self, place: int, model: VisionLanguageModel, teaching: TeacherModel | None) -> Embedded:
        """The rows of a part for each contrast."""
        seed_step(*self.counters, place)
        batch, encoded, teacher = self._encoded(place, model, teaching)
        return {name: task.embed(model, encoded, batch, teacher) for name, task in self.contrasts.items()}

    def _encoded(
        self, place: int, model: VisionLanguageModel, teaching: TeacherModel | None
    ) -> tuple[Batch, Encoded, Teacher | None]:
        switch_patch_dropout(model, self.drops_patches)
        batch = self.batches[place].to(self.device)
        inputs = {name: to_model_range(value, self.dtype) for name, value in batch.inputs.items()}
        encoded = model.encode(inputs)
        return batch, encoded, None if teaching is None else teaching.encode(inputs)


def _with_captions(tasks: Mapping[str, ContrastTask[Any]], batches: Sequence[Batch]) -> dict[str, ContrastTask[Any]]:
    """The tasks that have a caption in some part of some process; the others have a loss of 0."""
    counts = sum_over_processes([float(sum(task.count(one) for one in batches)) for task in tasks.values()])
    return {name: task for (name, task), count in zip(tasks.items(), counts, strict=True) if count}
