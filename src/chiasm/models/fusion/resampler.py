"""Resampler: a few learned queries attend to the words, then to the image (Li et al. 2023).

Axis legend: m rows of the text, r rows of the image, l words then queries, k image tokens, d width.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.attention import with_words_apart
from chiasm.models.fusion.base import Fusion, FusionInputs, FusionShape, Join, take
from chiasm.models.transformer import Attention, Block, init_weights, key_padding_mask

QUERIES = 8
"""Learned queries. BLIP-2 has 32 for an image of 257 tokens and Flamingo 64 for a video; ours have 9 to 49 tokens."""


class ResamplerBlock(nn.Module):
    """A block in which words and queries attend to each other, and the queries alone to the image.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        self.block = Block(shape.dim, shape.heads, shape.mlp_ratio, context_dim=shape.dim, dropout=shape.dropout)

    def forward(
        self,
        x: Float[Tensor, "m l d"],
        allowed: Bool[Tensor, "..."],
        image: Float[Tensor, "r k d"],
        image_allowed: Bool[Tensor, "..."],
        index: Int[Tensor, " m"] | None,
    ) -> Float[Tensor, "m l d"]:
        """Words come first in `x`, the last QUERIES tokens are the queries."""
        block = self.block
        assert block.cross_norm is not None and block.cross_attention is not None
        x = x + block.dropout(block.self_attention(block.self_norm(x), allowed=allowed))
        words, queries = x[:, :-QUERIES], x[:, -QUERIES:]
        fetched = block.cross_attention(block.cross_norm(queries), image, image_allowed, context_index=index)
        x = torch.cat([words, queries + block.dropout(fetched)], dim=1)
        return x + block.dropout(block.mlp(block.mlp_norm(x)))


class ResamplerFusion(Fusion):
    """[T; Q] under self-attention, Q' = Q + attend(Q, I), MLP, `layers` times; `pooled` is the mean of the queries.

    The querying transformer of BLIP-2 (Li et al. 2023, section 3.1, with one MLP for words and queries), which
    follows the Perceiver resampler of Flamingo (Alayrac et al. 2022). Whatever its size, an image
    reaches the words through 8 queries: (l_text + 8)^2 + 8 l_image. Against `cross_attention`, where every word attends
    for itself, this is cheaper for long texts and large images, and the fused length no longer depends on them; for
    short texts it costs more and is a bottleneck. With one layer the queries know the words and the image, but the
    words do not yet know the image; words that are to be predicted need two.

    `values` are the text's tokens, then the queries. `pooled` is d wide, also for a text of summary tokens.

    Args:
        shape: sizes; `layers` counts blocks.
    """

    keeps_words = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.join = Join(shape.modalities[1:], shape.dim)
        self.queries = nn.Parameter(torch.randn(QUERIES, shape.dim))
        self.blocks = nn.ModuleList(ResamplerBlock(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.apply(init_weights)

    def cross_attentions(self) -> list[Attention]:
        """See `Fusion.cross_attentions`."""
        return [cast(Attention, cast(ResamplerBlock, one).block.cross_attention) for one in self.blocks]

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Fuse; with `text_allowed` the queries attend to no word (BLIP-2's mask for generation)."""
        text, others, index, text_allowed = inputs
        rows = text.values.shape[0]
        image, image_is_real = self.join(others)
        x = torch.cat([text.values, self.queries.expand(rows, -1, -1)], dim=1)
        is_real = torch.cat([text.is_real, text.is_real.new_ones(rows, QUERIES)], dim=1)
        allowed, image_allowed = (
            with_words_apart(is_real, text_allowed),
            key_padding_mask(take(image_is_real, index)),
        )
        for block in self.blocks:
            x = block(x, allowed, image, image_allowed, index)
        x = self.norm(x)
        return Tokens(x, is_real, x[:, -QUERIES:].mean(1))
