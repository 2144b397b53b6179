"""Align before fuse: cross-attention over tokens that were first mapped to a space shared by all modalities."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.base import Aligning, FusionInputs, FusionShape
from chiasm.models.fusion.cross_attention import CrossAttentionFusion
from chiasm.models.transformer import init_weights


class AlignThenFuse(CrossAttentionFusion, Aligning):
    """x_shared = W_x x + b_x for every token of modality x; then `cross_attention` among shared tokens.

    After ALBEF (Li et al. 2021, sections 3.1 and 3.2), where a contrastive loss on the pooled vectors draws words and
    images together before fusion relates them. ALBEF projects only the pooled vectors; here the tokens that fusion
    sees go through the same map, so that what contrast learns is where attention starts. The map is linear: the mean
    of shared tokens is the shared vector of the mean. Without a contrastive loss on `align` this is `cross_attention`
    with d^2 more weights a modality.

    Args:
        shape: sizes; `layers` counts blocks of self-attention, cross-attention, MLP.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.to_shared = nn.ModuleDict({name: nn.Linear(shape.dim, shape.dim) for name in shape.modalities})
        self.to_shared.apply(init_weights)

    def align(self, name: str, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Pooled vectors of modality `name` -> unit vectors in the shared space, float32, for a contrastive loss."""
        return F.normalize(self.to_shared[name](pooled).float(), dim=-1)

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Map every modality to the shared space, then fuse by cross-attention."""
        text = self._share(self.shape.modalities[0], inputs.text)
        others = {name: self._share(name, part) for name, part in inputs.others.items()}
        return super().fuse(inputs._replace(text=text, others=others))

    def _share(self, name: str, part: Tokens) -> Tokens:
        return Tokens(self.to_shared[name](part.values), part.is_real, part.pooled)
