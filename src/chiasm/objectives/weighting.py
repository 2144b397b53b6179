"""Several tasks in one model: learned loss weights, and conflicting gradients.

Axis legend: t tasks, p numbers of the shared parameters.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chiasm.core.shared_draws import shared_generator


def uncertainty_weighted(losses: Mapping[str, Tensor], log_variance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weigh each task's loss by a learned variance: `exp(-s) L + s` with `s = log sigma^2`.

    This is twice a regression's part in Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses",
    equation 7. The paper gives a classification's loss twice that weight against log sigma (equation 10); one form
    is taken for all tasks here, because the factor only moves s by log 2. At the optimum s is log L and each task
    adds `1 + log L`: relative progress counts, whatever a loss's unit. The total may be negative.

    Args:
        losses: scalar loss by task; computed in float32 (float64 for float64).
        log_variance: scalar s by the same names, a parameter that starts at 0.

    Returns:
        Each task's part by its name, and their sum under "loss".
    """
    assert losses and losses.keys() == log_variance.keys() and "loss" not in losses, (sorted(losses), log_variance)
    parts = {}
    for name, loss in losses.items():
        dtype = torch.promote_types(loss.dtype, torch.float32)
        log = log_variance[name].to(dtype)
        parts[name] = loss.to(dtype) * torch.exp(-log) + log
    return {**parts, "loss": torch.stack(list(parts.values())).sum()}


@torch.no_grad()
def project_conflicts(gradients: Float[Tensor, "t p"]) -> Float[Tensor, "t p"]:
    """Remove from each task's gradient what conflicts with another task's (PCGrad, Yu et al. 2020, algorithm 1).

    The other tasks' gradients are compared one after the other, in random order. Where the inner product is
    negative, the component along that gradient is removed. The step follows the sum of the rows returned.

    Torch's global generator draws the orders, and in several processes one that they share, so every process calls
    this, with gradients that are already averaged.
    """
    tasks = len(gradients)
    lots = torch.rand(tasks, tasks, generator=shared_generator(torch.device("cpu")))
    projected = gradients.clone()
    for task, order in enumerate(lots.argsort(1).tolist()):
        for other in order:
            against = (projected[task] * gradients[other]).sum()
            if other != task and against < 0:
                projected[task] -= against / gradients[other].square().sum() * gradients[other]
    return projected


@torch.no_grad()
def gradient_cosines(gradients: Float[Tensor, "t p"]) -> Float[Tensor, "t t"]:
    """Cosine of each two tasks' gradients, in [-1, 1]; below 0 they are in conflict. 0 where a gradient is zero."""
    unit = F.normalize(gradients.to(torch.promote_types(gradients.dtype, torch.float32)), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        return (unit @ unit.T).clamp(-1, 1)
