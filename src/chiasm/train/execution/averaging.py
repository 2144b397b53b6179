"""The exponential moving average of the weights, and a model that computes with it."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chiasm.models.vision_language import VisionLanguageModel
from chiasm.train.execution.teacher import TeacherModel


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, number: int) -> None:
    """Average <- d average + (1 - d) weights, in place, with d = min(decay, (1 + number) / (10 + number)).

    The smaller decay of the first steps reduces the weight of the initial parameters in the average.

    Args:
        average: values by parameter name.
        weights: values after the step; may have further names.
        decay: `train.ema_decay`, in [0, 1).
        number: steps done before this one.
    """
    decay = min(decay, (1 + number) / (10 + number))
    torch._foreach_lerp_(list(average.values()), [weights[name].detach() for name in average], 1 - decay)


class AveragedModel(TeacherModel):
    """A copy of the computing model with the averaged weights: the teacher of momentum distillation.

    ALBEF (Li et al. 2021, section 3.3) keeps such a copy with decay 0.995; here it is the run's own `ema_decay`, so a
    resumed run has the same teacher.

    Args:
        model: the model that computes; its number format is taken.
        names: parameters that are averaged.
    """

    def __init__(self, model: VisionLanguageModel, names: Sequence[str]) -> None:
        super().__init__(copy.deepcopy(model))
        named = dict(self.model.named_parameters())
        self.parameters = {name: named[name] for name in names}

    @torch.no_grad()
    def refresh(self, average: Mapping[str, Tensor]) -> None:
        """Copy the averages into the model after a step, rounded to its number format."""
        torch._foreach_copy_(list(self.parameters.values()), [average[name] for name in self.parameters])
