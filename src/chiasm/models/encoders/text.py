"""Text tower trained from scratch: token and position embeddings, then transformer blocks."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.batch_invariant import positions
from chiasm.models.encoders.base import EncoderShape, LearnedTokenizer, TextTowerConfig, TokenizerSource
from chiasm.models.transformer import POSITION_STD, Block, init_weights, key_padding_mask, masked_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class ScratchTextConfig(TextTowerConfig):
    """Keys of the text encoders that are trained from scratch; their tokenizer is learned from the data."""

    layers: int = 1
    """Transformer blocks."""
    vocabulary: int = 4000
    """Largest vocabulary that the tokenizer may learn from the data."""

    from_scratch: ClassVar[bool] = True

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        return LearnedTokenizer(self.vocabulary)


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryTextConfig(ScratchTextConfig):
    """Keys of the encoders from scratch that can pool a text into learned tokens."""

    summary_tokens: int = 0
    """Learned tokens that pool a question for fusion; 0 passes every token to fusion."""
    summary_std: float = 1.0
    """Initial standard deviation of the summary tokens; word embeddings have 1, and a summary token initially pools
    their mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerTextConfig(SummaryTextConfig):
    """A transformer encoder in which each token attends to all tokens, trained from scratch."""

    kind: Literal["transformer"] = "transformer"

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`; dropout is not used."""
        sizes = shape.vocabulary, self.max_tokens, shape.dim, self.layers, shape.heads
        return TextEncoder(*sizes, self.summary_tokens, self.summary_std)


class TextEncoder(nn.Module):
    """Token ids -> contextual tokens.

    Args:
        vocabulary: number of token ids.
        max_tokens: longest text, special tokens included.
        dim: token width.
        layers: transformer blocks.
        heads: attention heads.
        summary_tokens: learned tokens before the text, which pool it. Fusion can then use these few instead of every
            token (as the queries of Q-Former, Li et al. 2023, but for text).
        summary_std: their initial standard deviation. They initially pool the mean of embeddings whose standard
            deviation is 1: with 1, the colour in a question of Sort-of-CLEVR is 0.3 % of their variance, with 0.1, 4 %.

    Attributes:
        has_queries: True in a class with a second stream, which starts from a learned `query_token` [dim].
    """

    has_queries: ClassVar[bool] = False

    def __init__(
        self,
        vocabulary: int,
        max_tokens: int,
        dim: int,
        layers: int,
        heads: int,
        summary_tokens: int = 0,
        summary_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.max_tokens, self.summary_tokens = dim, max_tokens, summary_tokens
        self.summary = nn.Parameter(torch.randn(summary_tokens, dim) * summary_std)
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.randn(max_tokens, dim) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)
        if self.has_queries:
            self.query_token = nn.Parameter(torch.randn(dim))

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; the summary tokens come first in `values`, `pooled` is the mean over the text's real tokens."""
        x = self.embedding(text.ids) + positions(self.position, text.ids.shape[1])
        rows = x.shape[0]
        x = torch.cat([self.summary.expand(rows, -1, -1), x], dim=1)
        is_real = torch.cat([text.is_real.new_ones(rows, self.summary_tokens), text.is_real], dim=1)
        for block in self.blocks:
            x = block(x, allowed=key_padding_mask(is_real))
        x = self.norm(x)
        return Tokens(x, is_real, masked_mean(x[:, self.summary_tokens :], text.is_real))
