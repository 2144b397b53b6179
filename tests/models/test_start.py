"""What small towers say before they have learned anything: not the background, and not that a text is a text."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.types import TextTokens
from chiasm.data.generated import sort_of_clevr
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.keypoints import KeypointConfig
from chiasm.recipes.table import find_recipe


def power(values: Tensor) -> float:
    return float(values.square().sum(-1).mean())


TOWERS = {
    "conv": ConvConfig(size_px=75, channels=(32, 64, 128, 128), layers=3, centred=True),
    "keypoints": KeypointConfig(size_px=75, channels=(32, 64, 64), layers=2),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(TOWERS))
def test_tokens_differ_between_mostly_empty_pictures(kind: str) -> None:
    """Guards against tokens that are background and place alone, on which binding is learned a thousand steps later."""
    torch.manual_seed(0)
    tower = TOWERS[kind].build(ModelConfig(dim=128, heads=8).encoder_shape())
    drawn = [sort_of_clevr.render(sort_of_clevr.scene_at("train", number, 0)) for number in range(64)]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1
    tokens = tower(pictures).values
    assert power(tokens - tokens.mean(0)) > 0.25 * power(tokens)


@torch.no_grad()
def test_a_summary_tells_the_colour_asked_about() -> None:
    """Guards against summary tokens that drown the words they gather."""
    torch.manual_seed(0)
    model = find_recipe("sort_of_clevr").model
    tower = model.text.build(model.encoder_shape(60))
    frames = torch.randint(12, 60, (6, 12))
    ids = torch.stack(
        [frame.index_fill(0, torch.tensor([5]), colour) for frame, colour in itertools.product(frames, range(6))]
    )
    summary = tower(TextTokens(ids, torch.ones_like(ids, dtype=torch.bool))).values[:, :4].view(6, 6, 4, -1)
    assert power(summary - summary.mean(1, keepdim=True)) > 0.02 * power(summary)
