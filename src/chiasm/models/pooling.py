"""Attentional pooling: an image's many tokens gathered in a few (CoCa, Yu et al. 2022, section 3.2).

Axis legend: n images, l tokens, d width.
"""

import torch
from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.transformer import Attention, init_weights, key_padding_mask


class AttentionalPooler(nn.Module):
    """Learned queries look at an image's tokens: Tokens -> Tokens of `queries` values, all of them real.

    One layer of cross-attention, with norms before and after it. `pooled` comes from a query of its own, so that what
    contrast needs and what captions need are gathered apart (CoCa's contrastive and generative pooler).

    Args:
        dim_in: width of the tokens looked at.
        dim_out: width of the result; a multiple of `heads`.
        queries: number of values.
        heads: attention heads.
    """

    def __init__(self, dim_in: int, dim_out: int, queries: int, heads: int) -> None:
        super().__init__()
        self.dim, self.queries = dim_out, queries
        self.query = nn.Parameter(torch.randn(queries + 1, dim_out))
        self.norm_in = nn.LayerNorm(dim_in)
        self.attention = Attention(dim_out, heads, context_dim=dim_in)
        self.norm_out = nn.LayerNorm(dim_out)
        self.apply(init_weights)

    def forward(self, tokens: Tokens) -> Tokens:
        """Gather the real tokens; `tokens.pooled` has no part in it."""
        rows = tokens.values.shape[0]
        query = self.query.expand(rows, -1, -1)
        found = self.norm_out(self.attention(query, self.norm_in(tokens.values), key_padding_mask(tokens.is_real)))
        is_real = tokens.is_real.new_ones(rows, self.queries)
        return Tokens(found[:, : self.queries], is_real, found[:, self.queries])
