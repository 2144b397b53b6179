"""Additive fusion in the shared space: the contrastive loss and the heads use the same sum of embeddings."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.fusion.base import Aligning, FusionShape
from chiasm.models.fusion.pooled import PooledFusion
from chiasm.models.projection import Projection
from chiasm.models.transformer import init_weights


class SharedSum(PooledFusion, Aligning):
    """Z = f_v(I) + f_t(T), normalised, of pooled vectors: `f_m(x) = normalised(W_m LayerNorm(x) + b_m)`.

    `align` gives f_v and f_t to a contrast, so that `objectives.additive` and what answers questions see one and the
    same Z, up to dropout, which is drawn anew; `sum` has maps of its own beside those of a contrast. As there, only the
    MLPs after the sum can make what a text does depend on the image.

    Args:
        shape: sizes; `layers` counts the residual MLPs after the sum, `heads` is not used. The shared space has
            `shape.dim` numbers.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.dim)
        self.apply(init_weights)
        self.maps = nn.ModuleDict(
            {name: Projection(shape.dim, shape.dim, 0, shape.dropout) for name in shape.modalities}
        )

    def align(self, name: str, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """f_m of modality `name`: unit vectors, float32."""
        aligned: Tensor = self.maps[name](pooled)
        return aligned

    def combine(self, mapped: list[Float[Tensor, "m w"]]) -> Float[Tensor, "m d"]:
        """Add the unit vectors and normalise; the MLPs get numbers of size 1, as LayerNorm would give."""
        total = F.normalize(torch.stack(mapped).sum(0), dim=-1)
        return (total * self.shape.dim**0.5).to(self.norm.weight.dtype)
