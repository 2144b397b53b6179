"""Modules that change once an optimiser step without a gradient, such as a codebook of moving averages.

Such a module collects in its forward pass, and changes in `finish_step`, which the execution plan calls after the
optimiser. A step may consist of several forward passes (`train.accumulate`), of several processes, and of a computing
copy in bf16, so a change in the forward pass itself would be made too often, differ between processes, or be lost.
"""

from abc import ABC, abstractmethod

import torch
from torch import nn


class Stepwise(nn.Module, ABC):
    """A module with `finish_step`.

    What it changes are parameters that get no gradient, which the run averages, keeps and stores like others, and
    buffers, which a checkpoint stores.
    """

    @abstractmethod
    def finish_step(self, computed: "Stepwise") -> None:
        """Change parameters and buffers by what the forward passes of a step collected.

        All processes call it together. They must change alike: what was collected is gathered first.

        Args:
            computed: the same module in the model that ran the step: this one, or its copy in another number format.
                What it collected is removed.
        """


@torch.no_grad()
def finish_step(model: nn.Module, computed: nn.Module) -> None:
    """Call `finish_step` of every `Stepwise` module of a model, and copy its buffers to the computing model.

    Args:
        model: holds the fp32 weights.
        computed: the model that ran the step, of the same structure; may be `model`. Its parameters are left to the
            caller.
    """
    for own, other in zip(model.modules(), computed.modules(), strict=True):
        if isinstance(own, Stepwise):
            assert isinstance(other, Stepwise), "the computing model has the same modules"
            own.finish_step(other)
            for kept, copied in zip(own.buffers(), other.buffers(), strict=True):
                if kept is not copied:
                    copied.copy_(kept)
