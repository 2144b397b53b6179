"""Low-rank bilinear fusion: the modalities are multiplied number by number."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.fusion.base import FusionShape
from chiasm.models.fusion.pooled import PooledFusion
from chiasm.models.transformer import init_weights

RANK_RATIO = 2
"""Rank over width: a result of d numbers is made from 2 d products. Kim et al. 2017 use 1,200 for vectors of 2,048
and 2,400."""


class BilinearFusion(PooledFusion):
    """Z = P (tanh(U T) * tanh(V I)) + b, number by number; more modalities are further factors.

    Multimodal low-rank bilinear pooling ("Hadamard Product for Low-rank Bilinear Pooling", Kim et al. 2017; here over
    one vector a modality, without its attention glimpses). A full bilinear map has d^3 weights and gives every pair
    of input numbers its own; a rank of 2 d needs 6 d^2. What `sum` cannot say, that a word means one thing in this
    image and the opposite in that, is one product here. Products of many modalities grow small: with more than
    three prefer `gated`.

    Args:
        shape: sizes; `layers` counts the residual MLPs after the product, `heads` is not used.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, RANK_RATIO * shape.dim)
        self.out = nn.Linear(RANK_RATIO * shape.dim, shape.dim)
        self.apply(init_weights)

    def combine(self, mapped: list[Float[Tensor, "m w"]]) -> Float[Tensor, "m d"]:
        """Multiply the mapped vectors and map back."""
        return self.out(torch.stack(mapped).tanh().prod(0))
