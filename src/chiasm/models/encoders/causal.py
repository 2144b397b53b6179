"""Causal text tower: CoCa's unimodal text decoder (Yu et al. 2022, section 3.2).

Axis legend: n texts, l words, d width.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.batch_invariant import positions
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.text import ScratchTextConfig
from chiasm.models.transformer import POSITION_STD, Block, KeyValueCache, causal, init_weights, key_padding_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalTextConfig(ScratchTextConfig):
    """A transformer encoder in which each token attends to the tokens before it (CoCa), trained from scratch."""

    kind: Literal["causal"] = "causal"

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        sizes = shape.vocabulary, self.max_tokens, shape.dim, self.layers, shape.heads
        return CausalTextEncoder(*sizes, shape.dropout)


class CausalTextEncoder(nn.Module):
    """Token ids -> states that depend on the tokens before them, and a summary of the whole text.

    Unlike in `TextEncoder`, a token's state does not depend on later tokens, so that a decoder can continue from it
    (`MultimodalDecoder`). A learned token after the last one, CoCa's [CLS], pools the text for contrast. It has no
    position embedding, because its place depends on the padding of the batch.

    Args:
        vocabulary: number of token ids.
        max_tokens: longest text, special tokens included.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
        dropout: probability in [0, 1) on each residual branch.
    """

    def __init__(
        self, vocabulary: int, max_tokens: int, dim: int, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dim, self.max_tokens = dim, max_tokens
        self.summary = nn.Parameter(torch.randn(dim))
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.randn(max_tokens, dim) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; `values` are the tokens' states, `pooled` is the state of the summary token."""
        rows, length = text.ids.shape
        words = self.embedding(text.ids) + positions(self.position, length)
        x = torch.cat([words, self.summary.expand(rows, 1, -1)], dim=1)
        is_real = torch.cat([text.is_real, text.is_real.new_ones(rows, 1)], dim=1)
        allowed = causal(length + 1, x.device) & key_padding_mask(is_real)
        for block in self.blocks:
            x = block(x, allowed=allowed)
        x = self.norm(x)
        return Tokens(x[:, :length], text.is_real, x[:, length])

    def words(
        self, ids: Int[Tensor, "n l"], start: int = 0, caches: list[KeyValueCache] | None = None
    ) -> Float[Tensor, "n l d"]:
        """The tokens' states alone, the same as in `forward`; padding is on the right.

        With `caches`, one per block, `ids` are the newest tokens only, and the first has position `start`.
        """
        length = ids.shape[1]
        x: Tensor = self.embedding(ids) + self.position[start : start + length]
        # A single new token attends to all before it, which needs no mask.
        allowed = causal(length, ids.device, start) if length > 1 else None
        for number, block in enumerate(self.blocks):
            x = block(x, allowed=allowed, cache=None if caches is None else caches[number])
        return cast(Tensor, self.norm(x))
