"""Images and sizes for the tests of projectors."""

import torch

from chiasm.core.types import Tokens
from chiasm.models.bridge.projector import BridgeShape

SHAPE = BridgeShape(image_dim=6, text_dim=8, grid_of=lambda tokens: (3, 3) if tokens < 16 else (4, 4))


def image(tokens: int = 9, count: int = 3) -> Tokens:
    values = torch.randn(count, tokens, SHAPE.image_dim, generator=torch.Generator().manual_seed(0))
    return Tokens(values, torch.ones(count, tokens, dtype=torch.bool), values.mean(1))
