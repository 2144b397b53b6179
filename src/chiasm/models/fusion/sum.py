"""Additive fusion: the sum of both modalities' linear maps."""

import torch
from jaxtyping import Float
from torch import Tensor

from chiasm.models.fusion.base import FusionShape
from chiasm.models.fusion.pooled import PooledFusion
from chiasm.models.transformer import init_weights


class SumFusion(PooledFusion):
    """Z = W_v I + W_t T + b of the pooled vectors; a third modality adds a third term.

    The cheapest method, d^2 a modality, and the baseline of all others: a text moves the result by the same amount
    whatever the image, and only the MLPs after it can make the one depend on the other. `gated` weighs the terms,
    `concat_mlp` puts a non-linearity between, `bilinear` multiplies. The sum of maps is the linear layer over the
    concatenation, known as joint representation (Baltrusaitis et al. 2019, section 3.1).

    Args:
        shape: sizes; `layers` counts the residual MLPs after the sum, `heads` is not used.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.dim)
        self.apply(init_weights)

    def combine(self, mapped: list[Float[Tensor, "m w"]]) -> Float[Tensor, "m d"]:
        """Add the mapped vectors."""
        return torch.stack(mapped).sum(0)
