"""Contrast over all parts of a step, with the memory of one part (GradCache).

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (arXiv 2101.06983), section
3.2: the loss of a batch depends on the towers through the embeddings alone, so the chain rule splits there. First every
part is embedded without a graph, and the loss of all embeddings and its gradient by them are computed. Then each part
is embedded again with a graph, and its embeddings get the cached gradient. Value and gradient are those of the whole
batch, up to rounding; the cost is one more forward pass of the towers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.stepwise import Stepwise
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.contrast import ContrastRows, ContrastTask
from chiasm.train.execution.teacher import TeacherModel

Embedded = Mapping[str, ContrastRows]
"""Task -> the rows of one part."""


@dataclass(frozen=True, slots=True)
class CachedLoss:
    """The loss of one task over all rows, and its gradient.

    Attributes:
        value: float [], without graph.
        by_rows: for each part, vector name -> gradient of the loss by the part's rows.
        by_parameters: parameters that the comparison itself uses (the temperature), each with its gradient.
    """

    value: Tensor
    by_rows: list[dict[str, Tensor]]
    by_parameters: list[tuple[nn.Parameter, Tensor]]

    def of_part(self, place: int, rows: ContrastRows) -> Tensor:
        """A loss of one part: its value is that of the whole, and the mean over parts has the gradient of the whole.

        Args:
            place: number of the part.
            rows: the part embedded again, with a graph and with the same draws as before.
        """
        part = torch.stack([(rows.vectors[name] * found).sum() for name, found in self.by_rows[place].items()]).sum()
        total = part * len(self.by_rows)
        for parameter, gradient in self.by_parameters:
            total = total + (parameter * gradient).sum()
        return self.value + (total - total.detach()).to(self.value.dtype)


class GradientCache:
    """The contrast tasks of a step in parts.

    Args:
        tasks: name -> task; each has a text in some part of some process.
        embed: (number of a part, model, model that is learned from) -> the rows of each task; seeds the part's draws.
        parts: number of parts.
    """

    def __init__(
        self,
        tasks: Mapping[str, ContrastTask[Any]],
        embed: Callable[[int, VisionLanguageModel, TeacherModel | None], Embedded],
        parts: int,
    ) -> None:
        self.tasks, self.embed, self.parts = tasks, embed, parts
        self._losses: dict[str, CachedLoss] | None = None

    def losses(self, model: VisionLanguageModel, teaching: TeacherModel | None) -> dict[str, CachedLoss]:
        """Embed all parts and compare them, at the first call; later calls return the same."""
        if self._losses is None:
            with torch.no_grad():
                found = [self.embed(place, model, teaching) for place in range(self.parts)]
            self._losses = {name: self._compared(model, name, found) for name in self.tasks}
        return self._losses

    def _compared(self, model: VisionLanguageModel, name: str, found: list[Embedded]) -> CachedLoss:
        rows = [part[name] for part in found]
        whole = ContrastRows.joined(rows)
        leaves = {key: vector.detach().requires_grad_() for key, vector in whole.vectors.items()}
        loss = self.tasks[name].compare(model, ContrastRows(leaves, whole.facts))["loss"]
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, [*leaves.values(), *parameters], allow_unused=True)
        by_rows: list[dict[str, Tensor]] = [{} for _ in rows]
        for (key, leaf), gradient in zip(leaves.items(), gradients[: len(leaves)], strict=True):
            filled = torch.zeros_like(leaf) if gradient is None else gradient
            for part, piece in zip(by_rows, filled.split([len(part.vectors[key]) for part in rows]), strict=True):
                part[key] = piece
        reached = zip(parameters, gradients[len(leaves) :], strict=True)
        return CachedLoss(
            loss.detach(), by_rows, [(one, gradient) for one, gradient in reached if gradient is not None]
        )


def check_exact(model: nn.Module) -> None:
    """Require that a row's embedding depends on the row alone, and that embedding it twice changes nothing.

    Raises:
        InputError: the model has batch norms, or modules that collect statistics in the forward pass.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | Stepwise):
            raise InputError(
                f"train.exact_contrast true with {name}, a {type(module).__name__} that mixes the rows of a part",
                "towers that embed each row by itself: layer norms, no codebook with moving averages",
                "--set train.exact_contrast=false contrasts within each part; or --set train.accumulate=1",
            )
