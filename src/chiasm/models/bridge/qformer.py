"""Projector `qformer`: blocks of self-attention among learned queries and cross-attention to the image (BLIP-2).

Li et al. 2023 ("BLIP-2", section 3.1). Against `resampler`, queries attend to each other and to the image in separate
layers, at a width of their own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from chiasm.core.config import check_positive
from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig
from chiasm.models.transformer import Block, init_weights, key_padding_mask


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerConfig(ProjectorConfig):
    """A querying transformer without text, then a linear layer."""

    kind: Literal["qformer"] = "qformer"
    queries: int = 32
    """Tokens that the language model gets of an image."""
    dim: int = 256
    """Width of the queries."""
    layers: int = 3
    heads: int = 4

    def check(self, where: str) -> None:
        """Check sizes."""
        sizes = {"queries": self.queries, "dim": self.dim, "layers": self.layers, "heads": self.heads}
        check_positive({f"{where}.{name}": size for name, size in sizes.items()})
        if self.dim % self.heads:
            raise InputError(
                f"{where}.dim {self.dim} is no multiple of {where}.heads {self.heads}", "equal heads", "change one"
            )

    def build(self, shape: BridgeShape) -> nn.Module:
        """See `ProjectorConfig.build`."""
        return QFormer(shape, self)


class QFormer(nn.Module):
    """Learned queries through transformer blocks with cross-attention to the image.

    Args:
        shape: sizes.
        config: queries, width, blocks and heads.
    """

    def __init__(self, shape: BridgeShape, config: QFormerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.image_norm = nn.LayerNorm(shape.image_dim)
        self.blocks = nn.ModuleList(Block(dim, config.heads, context_dim=shape.image_dim) for _ in range(config.layers))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, shape.text_dim)
        self.apply(init_weights)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens [k, l, c] -> [k, q, e]; an image without a real token gives none."""
        count = len(tokens.values)
        image, x = self.image_norm(tokens.values), self.queries.expand(count, -1, -1)
        for block in self.blocks:
            x = block(x, context=image, context_allowed=key_padding_mask(tokens.is_real))
        is_real = tokens.is_real.any(1, keepdim=True).expand(-1, x.shape[1])
        return Tokens(self.out(self.norm(x)), is_real, tokens.pooled)
