"""Pixel shuffle against a slow loop over blocks."""

import pytest
import torch
from projecting import SHAPE, image

from chiasm.core.errors import InputError
from chiasm.models.bridge.pixel_shuffle import PixelShuffle, PixelShuffleConfig


@torch.no_grad()
def test_pixel_shuffle_puts_neighbours_side_by_side() -> None:
    """Against a slow loop over the blocks of a 4 x 4 grid behind a class token."""
    module, given = PixelShuffle(SHAPE, 2), image(17)
    linear = module.change
    expected = []
    grid = given.values[:, 1:].view(3, 4, 4, -1)
    for top in (0, 2):
        for left in (0, 2):
            cells = [grid[:, top + row, left + column] for row in (0, 1) for column in (0, 1)]
            expected.append(linear.values(torch.cat(cells, -1)[:, None]))
    torch.testing.assert_close(module(given).values, torch.cat(expected, 1))


@torch.no_grad()
def test_a_side_that_is_no_multiple_is_padded_with_zeros() -> None:
    """A 3 x 3 grid gives 2 x 2 blocks; the last holds one cell and zeros."""
    module, given = PixelShuffle(SHAPE, 2), image(9)
    corner = torch.cat([given.values[:, 8], torch.zeros(3, 18)], -1)
    torch.testing.assert_close(module(given).values[:, 3], module.change.values(corner[:, None])[:, 0])


def test_a_factor_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="factor is 0"):
        PixelShuffleConfig(factor=0).check("tasks.conversation.projector")
