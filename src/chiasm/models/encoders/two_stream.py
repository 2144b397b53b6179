"""Text tower that can predict tokens in any order: XLNet's two streams (Yang et al. 2019, section 2.3).

Axis legend: n texts, l tokens, q query tokens, k key tokens, d model width.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Int
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.batch_invariant import positions
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.text import SummaryTextConfig, TextEncoder
from chiasm.models.transformer import masked_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStreamTextConfig(SummaryTextConfig):
    """A transformer encoder that can also predict tokens in any order (XLNet), trained from scratch."""

    kind: Literal["two_stream"] = "two_stream"

    has_two_streams: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`; dropout is not used."""
        sizes = shape.vocabulary, self.max_tokens, shape.dim, self.layers, shape.heads
        return TwoStreamTextEncoder(*sizes, self.summary_tokens, self.summary_std)


class TwoStreamTextEncoder(TextEncoder):
    """Token ids -> contextual tokens, from all tokens (`forward`) or from those earlier in an order (`two_stream`).

    Unlike `TextEncoder` it can predict its own tokens, and unlike a causal encoder it predicts a token from tokens on
    both sides, without a [MASK], which questions and captions do not contain. `forward` computes what `TextEncoder`
    does with the same weights; it does not use `query_token`.

    Positions are absolute and learned. XLNet's are relative, with a memory of earlier segments (section 2.4), for
    documents longer than a segment; captions and questions are short.

    Args:
        vocabulary: number of token ids.
        max_tokens: longest text, special tokens included.
        dim: token width.
        layers: transformer blocks, shared by both streams.
        heads: attention heads.
        summary_tokens: learned tokens before the text in `forward`; `two_stream` does not use them.
    """

    has_queries: ClassVar[bool] = True

    def two_stream(self, text: TextTokens, order: Int[Tensor, "n l"]) -> tuple[Tokens, Tokens]:
        """Encode so that each token can be predicted from the tokens before it in `order`.

        Args:
            text: ids and `is_real` [n, l]; every row begins with its start token.
            order: the place of each token in its row's order, as `objectives.permutation.draw_order` gives it: the
                start token's is 0, padding comes last.

        Returns:
            The content stream h and the query stream g, values [n, l, d] each (equations 3 and 4). h at token i
            depends on the tokens j with order_j <= order_i, token i included. g at token i depends on those with
            order_j < order_i, and on the position of token i: the logits of token i are computed from it. No token
            precedes the start token; its g attends to the start token itself, and is not for prediction. `pooled` is
            the mean over real tokens: it depends on nearly every token, so no token may be predicted from it.
        """
        position = positions(self.position, order.shape[1])
        content = self.embedding(text.ids) + position
        query = (self.query_token + position).expand_as(content)
        content_allowed = (order[:, None, :] <= order[:, :, None]) & text.is_real[:, None, :]
        query_allowed = (order[:, None, :] < order[:, :, None]) & text.is_real[:, None, :]
        query_allowed[:, 0, 0] = True
        for block in self.blocks:
            query = block(query, allowed=query_allowed[:, None], content=content)
            content = block(content, allowed=content_allowed[:, None])
        content, query = self.norm(content), self.norm(query)
        return (
            Tokens(content, text.is_real, masked_mean(content, text.is_real)),
            Tokens(query, text.is_real, masked_mean(query, text.is_real)),
        )
