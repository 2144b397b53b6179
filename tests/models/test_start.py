"""What small towers say before they have learned anything: not the background, and not that a text is a text."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.types import TextTokens
from chiasm.data import sort_of_clevr
from chiasm.models.encoders import build_image_tower, build_text_tower
from chiasm.models.encoders.conv import Placed
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
    assert power(tokens - tokens.mean(0)) > 0.15 * power(tokens)


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


def test_placed_channels_are_weighed_by_where_they_are() -> None:
    """Guards against x for y, and against places that do not reach from edge to edge."""
    h = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = Placed()(h)
    for n, c, row, column in itertools.product(*map(range, h.shape)):
        value, x, y = float(h[n, c, row, column]), 2 * column / 4 - 1, 2 * row / 3 - 1
        assert found[n, [c, c + 3, c + 6], row, column].tolist() == pytest.approx(
            [value, value * x, value * y], abs=1e-6
        )


def test_coordinates_tell_where_in_a_cell_a_dot_is() -> None:
    """Guards against a key that changes nothing: a cell's mean moves with the dot, and not without coordinates."""

    def mean_of_cell(with_coordinates: bool, column: int) -> Tensor:
        h = torch.zeros(1, 1, 8, 8)
        h[0, 0, 4, column] = 1.0
        return (Placed()(h) if with_coordinates else h)[:, :, 4:8, 4:8].mean((2, 3))

    assert torch.equal(mean_of_cell(False, 5), mean_of_cell(False, 6))
    assert not torch.allclose(mean_of_cell(True, 5), mean_of_cell(True, 6))
    towers = [find_recipe(name).model for name in ("sort_of_clevr", "demo")]
    assert [any(isinstance(part, Placed) for part in build_image_tower(one).modules()) for one in towers] == [
        True,
        False,
    ]
