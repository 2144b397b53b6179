"""The linear projector is a LayerNorm and one matrix."""

import torch
import torch.nn.functional as F
from projecting import SHAPE, image

from chiasm.models.bridge.linear import LinearProjectorConfig


@torch.no_grad()
def test_each_token_is_normalised_and_multiplied() -> None:
    module, given = LinearProjectorConfig().build(SHAPE), image()
    linear = module.change
    expected = F.layer_norm(given.values, (6,)) @ linear.weight.T + linear.bias  # type: ignore[union-attr, operator]
    torch.testing.assert_close(module(given).values, expected)
