"""Co-attention: words attend to the image and the image attends to words, layer by layer (Tan & Bansal 2019).

Axis legend: m rows of the text, r rows of the image, q words, k image tokens, d width.
"""

from typing import cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.attention import WordFusion, among_words
from chiasm.models.fusion.base import FusionInputs, FusionShape, take
from chiasm.models.transformer import Attention, Block, init_weights, key_padding_mask


class CoAttentionLayer(nn.Module):
    """Each side attends to the other as it was before the layer, then to itself, then MLP.

    Args:
        shape: sizes.
        is_last: leave the image's side out, which nothing reads afterwards.
    """

    def __init__(self, shape: FusionShape, is_last: bool) -> None:
        super().__init__()
        dim, heads, ratio, dropout = shape.dim, shape.heads, shape.mlp_ratio, shape.dropout
        self.text_norm, self.image_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.text_cross = Attention(dim, heads)
        self.text_block = Block(dim, heads, ratio, dropout=dropout)
        self.image_cross = None if is_last else Attention(dim, heads)
        self.image_block = None if is_last else Block(dim, heads, ratio, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        words: Float[Tensor, "m q d"],
        image: Float[Tensor, "r k d"],
        words_allowed: Bool[Tensor, "..."],
        words_shown: Bool[Tensor, "..."] | None,
        image_is_real: Bool[Tensor, "r k"],
        index: Int[Tensor, " m"] | None,
    ) -> tuple[Float[Tensor, "m q d"], Float[Tensor, "_ k d"]]:
        """Words and image after the layer.

        `words_allowed` is the mask among words and `words_shown` that from image to words. Without it the image
        attends to no word and keeps its r rows; with it there are as many rows as the words have.
        """
        looking, seen = self.text_norm(words), self.image_norm(image)
        seen_allowed = key_padding_mask(take(image_is_real, index))
        words = words + self.dropout(self.text_cross(looking, seen, seen_allowed, context_index=index))
        words = self.text_block(words, words_allowed)
        if self.image_cross is None or self.image_block is None:
            return words, image
        if words_shown is None:
            return words, self.image_block(image, key_padding_mask(image_is_real))
        image = take(image, index) + self.dropout(self.image_cross(take(seen, index), looking, words_shown))
        return words, self.image_block(image, seen_allowed)


class CoAttentionFusion(WordFusion):
    """`layers` times T' = T + attend(T, I), I' = I + attend(I, T) at once, then each side's self-attention and MLP.

    LXMERT's cross-modality encoder (Tan & Bansal 2019, section 2.2) with the norm before each part, and with weights
    of its own in each direction, as in ViLBERT (Lu et al. 2019), where LXMERT shares the cross-attention. The last
    layer changes the words alone, since nothing reads the image after it: with one layer this is `cross_attention`
    with self-attention after and not before the cross-attention.

    Against `cross_attention`, a word in the second layer attends to image tokens that already know the question; for
    that every question carries its own copy of the image through all layers but the last. Against
    `merged_attention`, each side has its own weights, and words and image are weighed in separate softmaxes.

    Args:
        shape: sizes; `layers` counts layers of both sides.
    """

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        last = shape.layers - 1
        self.layers = nn.ModuleList(CoAttentionLayer(shape, layer == last) for layer in range(shape.layers))
        self.apply(init_weights)

    def cross_attentions(self) -> list[Attention]:
        """See `Fusion.cross_attentions`."""
        return cast(list[Attention], [layer.text_cross for layer in self.layers])

    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Fuse; with `text_allowed` the image attends to itself alone, and stays shared by its questions."""
        text, others, index, text_allowed = inputs
        words = text.values
        image, is_real = self.join(others)
        allowed = among_words(text.is_real, text_allowed)
        shown = key_padding_mask(text.is_real) if text_allowed is None else None
        for layer in self.layers:
            words, image = layer(words, image, allowed, shown, is_real, index)
            if shown is not None:
                is_real, index = take(is_real, index), None
        return self.finish(words, text.is_real, words.shape[1])
