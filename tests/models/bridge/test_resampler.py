"""The resampler: as many tokens whatever the image has, and no order of the image's tokens."""

import torch
from projecting import SHAPE, image

from chiasm.models.bridge.resampler import Resampler, fitting_heads


@torch.no_grad()
def test_it_reads_a_set_of_tokens() -> None:
    module = Resampler(SHAPE, queries=5, layers=2, heads=2).eval()
    given = image(9)
    turned = given._replace(values=given.values.flip(1))
    found = module(given).values
    assert found.shape == (3, 5, 8)
    torch.testing.assert_close(module(turned).values, found, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(module(image(16)).values, found, atol=1e-3)


def test_heads_divide_the_width() -> None:
    assert fitting_heads(576, 8) == 8 and fitting_heads(30, 8) == 6 and fitting_heads(7, 4) == 1
