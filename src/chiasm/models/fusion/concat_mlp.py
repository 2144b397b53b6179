"""Fusion by an MLP over the concatenation of both vectors."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.fusion.base import FusionShape
from chiasm.models.fusion.pooled import PooledFusion
from chiasm.models.transformer import init_weights


class ConcatMlpFusion(PooledFusion):
    """Z = W_2 gelu(W_1 [T; I] + b_1) + b_2, with `mlp_ratio` * d hidden units.

    The first layer over a concatenation is the sum of its parts' maps, W_1 [T; I] = W_t T + W_i I, and is computed so:
    the image's part once an image. Against `sum`, the non-linearity lets the image decide what a word means, for
    3 * `mlp_ratio` * d^2 weights instead of 2 d^2; against `bilinear` it has to learn products from sums. A baseline
    since the first models of visual question answering (Antol et al. 2015).

    Args:
        shape: sizes; `layers` counts the residual MLPs after fusing, `heads` is not used.
    """

    def __init__(self, shape: FusionShape) -> None:
        hidden = int(shape.dim * shape.mlp_ratio)
        super().__init__(shape, hidden)
        self.out = nn.Linear(hidden, shape.dim)
        self.apply(init_weights)

    def combine(self, mapped: list[Float[Tensor, "m w"]]) -> Float[Tensor, "m d"]:
        """Second layer of the MLP over the sum of the first layer's parts."""
        return self.out(F.gelu(torch.stack(mapped).sum(0)))
