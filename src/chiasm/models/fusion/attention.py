"""Base and masks of the methods whose output has one vector for every text token.

Axis legend: m rows of the text, q text tokens, k keys, d width.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.fusion.base import Fusion, FusionShape, Join
from chiasm.models.transformer import key_padding_mask, masked_mean


class WordFusion(Fusion):
    """Base of the methods whose result is the text's tokens: `values` stand for them, `pooled` is made from them.

    `pooled` is the mean over real text tokens; with s summary tokens it is these, one after the other, s * d wide.
    """

    keeps_words = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape)
        self.dim = shape.dim * max(shape.summary_tokens, 1)
        self.join = Join(shape.modalities[1:], shape.dim)
        self.norm = nn.LayerNorm(shape.dim)

    def finish(self, x: Float[Tensor, "m l d"], is_real: Bool[Tensor, "m l"], words: int) -> Tokens:
        """Normalise, and pool the first `words` tokens, which are the text's."""
        x = self.norm(x)
        summary = self.shape.summary_tokens
        assert summary in (0, words), f"{words} text tokens where {summary} summary tokens are expected"
        pooled = x[:, :words].flatten(1) if summary else masked_mean(x[:, :words], is_real[:, :words])
        return Tokens(x, is_real, pooled)


def among_words(is_real: Bool[Tensor, "m k"], text_allowed: Bool[Tensor, "m q k"] | None) -> Bool[Tensor, "m 1 #q k"]:
    """Mask for `attend` among text tokens: padding, and `text_allowed` where it is given."""
    allowed = key_padding_mask(is_real)
    return allowed if text_allowed is None else allowed & text_allowed[:, None]


def with_words_apart(
    is_real: Bool[Tensor, "m k"], text_allowed: Bool[Tensor, "m q q"] | None
) -> Bool[Tensor, "m 1 _ k"]:
    """Mask for `attend` over one sequence of q text tokens and others.

    With `text_allowed` the text keeps to it, and the others attend to no text.
    """
    allowed = key_padding_mask(is_real)
    if text_allowed is None:
        return allowed
    words, length = text_allowed.shape[1], is_real.shape[1]
    allowed = allowed.expand(-1, 1, length, length).clone()
    allowed[:, 0, :words, :words] &= text_allowed
    allowed[:, 0, words:, :words] = False
    return allowed
