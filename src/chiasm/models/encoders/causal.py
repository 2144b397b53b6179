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
    """A transformer encoder in which each word attends to the words before it (CoCa), trained from scratch."""

    kind: Literal["causal"] = "causal"

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        sizes = shape.vocabulary, self.max_tokens, shape.dim, self.layers, shape.heads
        return CausalTextEncoder(*sizes, shape.dropout)


class CausalTextEncoder(nn.Module):
    """Token ids -> word states that know the words before them, and a summary that knows them all.

    Against `TextEncoder`: a word's state does not know what follows, so that a decoder can go on from it
    (`MultimodalDecoder`). A learned token after the last word, CoCa's [CLS], gathers the text for contrast. It has
    no position: where it stands depends on the padding of the batch, which must not matter.

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
        """Encode; `values` are the words' states, `pooled` is that of the summary token."""
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
        """The words' states alone, the same as in `forward`; padding stands on the right.

        With `caches`, one a block, `ids` are the newest words only, and the first stands at position `start`.
        """
        length = ids.shape[1]
        x: Tensor = self.embedding(ids) + self.position[start : start + length]
        # One new word may look at all before it, which needs no mask.
        allowed = causal(length, ids.device, start) if length > 1 else None
        for number, block in enumerate(self.blocks):
            x = block(x, allowed=allowed, cache=None if caches is None else caches[number])
        return cast(Tensor, self.norm(x))
