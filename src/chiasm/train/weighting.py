"""Combines the losses of several tasks into one gradient, and measures conflicts between the tasks' gradients."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.distributed import mean_of_tensor, mean_over_processes, sum_over_processes
from chiasm.core.types import Batch
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.weighting import gradient_cosines, project_conflicts, uncertainty_weighted
from chiasm.tasks.base import Task, TaskConfig
from chiasm.train.config import TrainConfig


class LossCombiner:
    """Backward passes of a step: one over the sum of the losses, or one a task where their gradients are compared.

    Args:
        train: `weighting` and `conflict_every`.
        tasks: name -> config, of which `weight` counts.
        parameters: the trained parameters of the model that computes.
    """

    def __init__(self, train: TrainConfig, tasks: Mapping[str, TaskConfig], parameters: Sequence[nn.Parameter]) -> None:
        self.train, self.parameters = train, parameters
        self.weights = {name: task.weight for name, task in tasks.items()}
        self._by_task: Tensor | None = None
        self._is_reached = [False] * len(parameters)

    def compares(self, step: int) -> bool:
        """Whether this step needs a gradient for each task: always with PCGrad, else every `conflict_every` steps."""
        if len(self.weights) < 2:
            return False
        every = self.train.conflict_every
        return self.train.weighting == "pcgrad" or (every > 0 and step % every == 0)

    def total(self, model: VisionLanguageModel, losses: Mapping[str, Tensor]) -> Tensor:
        """Sum of the losses, weighted by the config and, with "uncertainty", by learned variances."""
        weighed = {name: self.weights[name] * loss for name, loss in losses.items()}
        if self.train.weighting == "uncertainty":
            return uncertainty_weighted(weighed, dict(model.task_log_variance.items()))["loss"]
        return torch.stack([loss.float() for loss in weighed.values()]).sum()

    def backward(self, model: VisionLanguageModel, losses: Mapping[str, Tensor], share: float, step: int) -> Tensor:
        """Add `share` of the gradient of this part of the batch; returns the total loss."""
        total = self.total(model, losses)
        if not self.compares(step):
            if total.requires_grad:  # False if the part has no term of any task
                (total * share).backward()
            return total.detach()
        rows = []
        for number, name in enumerate(losses):
            task_loss = self.total_of(model, name, losses[name]) * share
            is_last = number + 1 == len(losses)
            found: Sequence[Tensor | None] = [None] * len(self.parameters)
            if task_loss.requires_grad:
                found = torch.autograd.grad(task_loss, self.parameters, retain_graph=not is_last, allow_unused=True)
            self._is_reached = [
                before or gradient is not None for before, gradient in zip(self._is_reached, found, strict=True)
            ]
            rows.append(torch.cat([_flat(gradient, p) for gradient, p in zip(found, self.parameters, strict=True)]))
        stacked = torch.stack(rows)
        self._by_task = stacked if self._by_task is None else self._by_task + stacked
        return total.detach()

    def total_of(self, model: VisionLanguageModel, name: str, loss: Tensor) -> Tensor:
        """One task's part of `total`."""
        if self.train.weighting == "uncertainty":
            return uncertainty_weighted({name: self.weights[name] * loss}, {name: model.task_log_variance[name]})[
                "loss"
            ]
        return self.weights[name] * loss

    def finish(self, names: Sequence[str]) -> dict[str, float]:
        """After the last part: put the tasks' gradients together; returns the cosine of each pair of tasks."""
        if self._by_task is None:
            return {}
        gradients = mean_of_tensor(self._by_task)
        self._by_task = None
        cosines = gradient_cosines(gradients)
        if self.train.weighting == "pcgrad":
            gradients = project_conflicts(gradients)
        parts = gradients.sum(0).split([parameter.numel() for parameter in self.parameters])
        # As after a plain backward pass: what no task reaches has no gradient, and so no weight decay either.
        reached = mean_over_processes([float(is_reached) for is_reached in self._is_reached])
        for parameter, part, share in zip(self.parameters, parts, reached, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if share else None
        pairs = combinations(range(len(names)), 2)
        return {f"cosine/{names[i]}~{names[j]}": float(cosines[i, j]) for i, j in pairs}


def part_factors(tasks: Mapping[str, Task[Any]], batches: Sequence[Batch]) -> list[dict[str, float]]:
    """What the loss of each part of a step is multiplied with, by task, before the mean over parts.

    A part counts by its share of the step's terms (`Task.count`), of all processes: the mean over parts is then the
    mean over terms. 1 where all parts have as many. A contrast stays one within each part.
    """
    if len(batches) == 1:
        return [dict.fromkeys(tasks, 1.0)]
    counts = sum_over_processes([float(task.count(batch)) for batch in batches for task in tasks.values()])
    rows = [counts[start : start + len(tasks)] for start in range(0, len(counts), len(tasks))]
    wholes = [sum(row[number] for row in rows) for number in range(len(tasks))]
    return [
        {
            name: len(batches) * own / whole if whole else 1.0
            for name, own, whole in zip(tasks, row, wholes, strict=True)
        }
        for row in rows
    ]


def _flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    found = torch.zeros_like(parameter) if gradient is None else gradient
    return found.flatten().float()
