"""Projector `resampler`: learned queries gather the tokens, as the Perceiver resampler (Alayrac et al. 2022, Flamingo).

Axis legend: k images, l tokens, q queries, e width of word embeddings.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from chiasm.core.config import check_positive
from chiasm.core.types import Tokens
from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig
from chiasm.models.transformer import Attention, init_weights, key_padding_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class ResamplerConfig(ProjectorConfig):
    """A fixed number of tokens, whatever the tower gives: learned queries attend to the image and to each other."""

    kind: Literal["resampler"] = "resampler"
    queries: int = 32
    """Tokens that the language model gets of an image."""
    layers: int = 2
    heads: int = 8

    def check(self, where: str) -> None:
        """Check sizes."""
        check_positive({f"{where}.queries": self.queries, f"{where}.layers": self.layers, f"{where}.heads": self.heads})

    def build(self, shape: BridgeShape) -> nn.Module:
        """See `ProjectorConfig.build`."""
        return Resampler(shape, self.queries, self.layers, fitting_heads(shape.text_dim, self.heads))


class Resampler(nn.Module):
    """q <- q + attend(q, [image; q]); q <- q + MLP(q), `layers` times (Flamingo, appendix A.1.1).

    Args:
        shape: sizes.
        queries: number of tokens of the result.
        layers: rounds.
        heads: attention heads; a divisor of the width of the word embeddings.
    """

    def __init__(self, shape: BridgeShape, queries: int, layers: int, heads: int) -> None:
        super().__init__()
        dim = shape.text_dim
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.image_norm, self.into = nn.LayerNorm(shape.image_dim), nn.Linear(shape.image_dim, dim)
        self.rounds = nn.ModuleList(_Round(dim, heads) for _ in range(layers))
        self.out = nn.Linear(dim, dim)
        self.apply(init_weights)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens [k, l, c] -> [k, q, e]; no query attends to a token that is not real."""
        count = len(tokens.values)
        image = self.into(self.image_norm(tokens.values))
        x = self.queries.expand(count, -1, -1)
        always = tokens.is_real.new_ones(count, x.shape[1])
        allowed = key_padding_mask(torch.cat([tokens.is_real, always], 1))
        for one in self.rounds:
            x = one(x, image, allowed)
        has_image = tokens.is_real.any(1, keepdim=True)
        return Tokens(self.out(x), always & has_image, tokens.pooled)


class _Round(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.image_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, image: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        query = self.norm(x)
        x = x + self.attention(query, torch.cat([self.image_norm(image), query], 1), allowed)
        return x + self.mlp(self.mlp_norm(x))


def fitting_heads(dim: int, most: int) -> int:
    """The largest number of heads up to `most` that divides a width."""
    return next(heads for heads in range(most, 0, -1) if dim % heads == 0)
