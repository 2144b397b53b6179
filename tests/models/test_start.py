"""What small towers say before they have learned anything: not the background, and not that a text is a text."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.types import TextTokens
from chiasm.data import sort_of_clevr
from chiasm.models.encoders import build_image_tower, build_text_tower
from chiasm.models.encoders.conv import ConvEncoder, Moments
from chiasm.recipes import find_recipe


def power(values: Tensor) -> float:
    return float(values.square().sum(-1).mean())


@torch.no_grad()
def test_tokens_differ_between_mostly_empty_pictures() -> None:
    """Guards against tokens that are background and place alone, on which binding is learned a thousand steps later."""
    torch.manual_seed(0)
    tower = build_image_tower(find_recipe("sort_of_clevr").model)
    drawn = [sort_of_clevr.render(sort_of_clevr.picture_at("train", number, 0)) for number in range(64)]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1
    tokens = tower(pictures).values
    assert power(tokens - tokens.mean(0)) > 0.2 * power(tokens)


@torch.no_grad()
def test_a_summary_tells_the_colour_asked_about() -> None:
    """Guards against summary tokens that drown the words they gather."""
    torch.manual_seed(0)
    tower = build_text_tower(find_recipe("sort_of_clevr").model, 60)
    frames = torch.randint(12, 60, (6, 12))
    ids = torch.stack(
        [frame.index_fill(0, torch.tensor([5]), colour) for frame, colour in itertools.product(frames, range(6))]
    )
    summary = tower(TextTokens(ids, torch.ones_like(ids, dtype=torch.bool))).values[:, :4].view(6, 6, 4, -1)
    assert power(summary - summary.mean(1, keepdim=True)) > 0.02 * power(summary)


def test_moments_are_means_over_cells() -> None:
    """Guards against x for y, and against places that do not reach from edge to edge."""
    h = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    found = Moments((4, 6), (2, 3))(h)
    for n, c, row, column in itertools.product(range(2), range(3), range(2), range(3)):
        cell = list(itertools.product((2 * row, 2 * row + 1), (2 * column, 2 * column + 1)))
        values = [float(h[n, c, y, x]) for y, x in cell]
        expected = [
            sum(values) / 4,
            sum(value * (2 * x / 5 - 1) for value, (_, x) in zip(values, cell, strict=True)) / 4,
            sum(value * (2 * y / 3 - 1) for value, (y, _) in zip(values, cell, strict=True)) / 4,
        ]
        assert found[n, [c, c + 3, c + 6], row, column].tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_coordinates_reach_the_tokens() -> None:
    """Guards against a key that changes nothing, and against moments of one cell in the token of another."""
    torch.manual_seed(0)
    tower = ConvEncoder((16, 24), (4, 8, 8), 16, 0, 2, coordinates=True)
    for part in tower.stem[2:]:
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.zeros_(part.weight)  # the moments alone
    picture = torch.zeros(1, 3, 16, 24)
    before = tower(picture).values
    picture[0, :, 11, 19] = 1.0  # in the last cell but not on its edge
    moved = (tower(picture).values - before).abs().sum(-1)[0]
    assert moved[-1] > 1e-3 and not moved[:-1].any()
