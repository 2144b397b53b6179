"""Cross-attention fusion: text tokens attend to image tokens (ALBEF, Li et al. 2021, section 3.1)."""

from typing import cast

from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.attention import WordFusion, among_words
from chiasm.models.fusion.base import FusionInputs, FusionShape, take
from chiasm.models.transformer import Attention, Block, drop_uniform_index, init_weights, key_padding_mask


class CrossAttentionFusion(WordFusion):
    """`layers` times T + attend(T, T), T + attend(T, I), T + MLP(T), each with its norm before.

    The fusion encoder of ALBEF (Li et al. 2021, section 3.1). The image's tokens stay as they are, so one encoded
    image serves many questions and its keys and values are projected once an image; a question costs
    l_text (l_text + l_image). Against its neighbours: `merged_attention` and `co_attention` let images attend to
    words too, for a copy of the image a question; `align_then_fuse` is this over tokens in a shared space;
    `resampler` lets few learned queries attend in place of every word.

    Args:
        shape: sizes; `layers` counts blocks of self-attention, cross-attention, MLP.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.heads, shape.mlp_ratio, context_dim=shape.dim, dropout=shape.dropout)
            for _ in range(shape.layers)
        )
        self.apply(init_weights)

    def cross_attentions(self) -> list[Attention]:
        """See `Fusion.cross_attentions`."""
        return cast(list[Attention], [block.cross_attention for block in self.blocks])

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Self-attention among words, then cross-attention to the image; see the class."""
        text, others, index, text_allowed = inputs
        x = text.values
        image, image_is_real = self.join(others)
        # Asked alone or among others, a question keeps its own rows, and so its answer to the last bit.
        index = drop_uniform_index(index, len(image)) if self.training else index
        for block in self.blocks:
            x = block(
                x,
                allowed=among_words(text.is_real, text_allowed),
                context=image,
                context_allowed=key_padding_mask(take(image_is_real, index)),
                context_index=index,
            )
        return self.finish(x, text.is_real, x.shape[1])
