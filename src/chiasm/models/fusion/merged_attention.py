"""Merged attention: one sequence of words and image tokens under self-attention (ViLT, Kim et al. 2021).

Axis legend: m rows of the text, l tokens of all modalities, d width.
"""

from typing import cast

from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.attention import WordFusion, with_words_apart
from chiasm.models.fusion.base import FusionInputs, FusionShape, Join
from chiasm.models.transformer import Attention, Block, init_weights


class MergedAttentionFusion(WordFusion):
    """x = [T + type_text; I + type_image], then `layers` blocks of self-attention and MLP over the whole of it.

    VisualBERT (Li et al. 2019) and ViLT (Kim et al. 2021, equations 3 to 5, pre-norm). Every token attends to every
    other with the same weights, so it has the fewest weights of the attention methods, 12 d^2 a block, and the
    highest cost: (l_text + l_image)^2 and a copy of the image in every layer for every question. `cross_attention`
    leaves the image as it is and so shares it; `co_attention` gives each side its own weights.

    `values` are the text's tokens, then those of the others, in the order of `shape.modalities`.

    Args:
        shape: sizes; `layers` counts blocks.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.join = Join(shape.modalities, shape.dim)
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.heads, shape.mlp_ratio, dropout=shape.dropout) for _ in range(shape.layers)
        )
        self.apply(init_weights)

    def cross_attentions(self) -> list[Attention]:
        """See `Fusion.cross_attentions`."""
        return cast(list[Attention], [block.self_attention for block in self.blocks])

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Fuse one sequence a text row; with `text_allowed` the others' tokens attend to no text."""
        text, others, index, text_allowed = inputs
        repeated = {name: part if index is None else part.rows(index) for name, part in others.items()}
        x, is_real = self.join({self.shape.modalities[0]: text, **repeated})
        allowed = with_words_apart(is_real, text_allowed)
        for block in self.blocks:
            x = block(x, allowed)
        return self.finish(x, is_real, text.values.shape[1])
