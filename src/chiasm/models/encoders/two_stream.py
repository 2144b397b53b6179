"""Text tower that can predict words in any order: XLNet's two streams (Yang et al. 2019, section 2.3).

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
    """A transformer encoder that can also predict words in any order (XLNet), trained from scratch."""

    kind: Literal["two_stream"] = "two_stream"

    has_two_streams: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`; dropout is not used."""
        sizes = shape.vocabulary, self.max_tokens, shape.dim, self.layers, shape.heads
        return TwoStreamTextEncoder(*sizes, self.summary_tokens, self.summary_std)


class TwoStreamTextEncoder(TextEncoder):
    """Token ids -> contextual tokens, from all words (`forward`) or from those earlier in an order (`two_stream`).

    Against its neighbours: a `TextEncoder` cannot predict a word that it reads, and a causal one reads to the left
    alone. Here each word is predicted from some of the words on both sides, without a [MASK] that questions and
    captions never hold. `forward` is what `TextEncoder` computes with the same weights; `query_token` takes no part
    in it.

    Positions are absolute and learned. XLNet's are relative, with a memory of earlier segments (section 2.4), for
    documents longer than a segment; captions and questions are short and come whole.

    Args:
        vocabulary: number of token ids.
        max_tokens: longest text, special tokens included.
        dim: token width.
        layers: transformer blocks, shared by both streams.
        heads: attention heads.
        summary_tokens: learned tokens put before the words in `forward`; they take no part in `two_stream`.
    """

    has_queries: ClassVar[bool] = True

    def two_stream(self, text: TextTokens, order: Int[Tensor, "n l"]) -> tuple[Tokens, Tokens]:
        """Encode so that each word can be predicted from the words before it in `order`.

        Args:
            text: ids and `is_real` [n, l]; every row begins with its start token.
            order: the place of each token in its row's order, as `objectives.permutation.draw_order` gives it: the
                start token's is 0, padding comes last.

        Returns:
            The content stream h and the query stream g, values [n, l, d] each (equations 3 and 4). h at token i has
            seen the tokens j with order_j <= order_i, its own word among them. g at token i has seen those with
            order_j < order_i, and of token i the position alone: logits of word i are made from it. The start token
            has none before it; its g looks at the token itself, and is not for prediction. `pooled` is the mean over
            real tokens: it holds nearly every word, so no word may be predicted from it.
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
