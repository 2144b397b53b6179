"""Between a pre-trained tower's width and the model's: one map for the tokens, one for the pooled vector."""

from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.transformer import init_weights


class TokenAdapter(nn.Module):
    """Tokens of width `token_dim`, pooled of width `pooled_dim` -> Tokens of width `dim`, normalised before.

    Where a tower already has the model's width none is built. Layer norms first, because the numbers of pre-trained
    towers have scales of their own (a rectified map lies in [0, 6], a text vector has unit length).

    Args:
        token_dim: width of `values` as the tower gives them.
        pooled_dim: width of `pooled`.
        dim: width of both afterwards.
        dropout: feature dropout, a probability in [0, 1), against overfitting to single photos.
    """

    def __init__(self, token_dim: int, pooled_dim: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.values = nn.Sequential(nn.LayerNorm(token_dim), nn.Dropout(dropout), nn.Linear(token_dim, dim))
        self.pooled = nn.Sequential(nn.LayerNorm(pooled_dim), nn.Dropout(dropout), nn.Linear(pooled_dim, dim))
        self.apply(init_weights)

    def forward(self, tokens: Tokens) -> Tokens:
        """Change the width of `values` [n, l, token_dim] and `pooled` [n, pooled_dim] to `dim`."""
        return Tokens(self.values(tokens.values), tokens.is_real, self.pooled(tokens.pooled))
