"""The contract of projectors over every member of the table."""

import pytest
import torch
from projecting import SHAPE, image
from torch import nn

from chiasm.core.types import Tokens
from chiasm.models.bridge import PROJECTORS
from chiasm.models.bridge.projector import ProjectorConfig

COUNTS = {"linear": 9, "mlp2x_gelu": 9, "pixel_shuffle": 4, "resampler": 32, "qformer": 32}
"""Tokens of a grid of 3 x 3 after each projector."""


def built(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config: ProjectorConfig = PROJECTORS[kind]()
    return config.build(SHAPE).eval()


@pytest.mark.parametrize("kind", PROJECTORS)
def test_shapes_rows_and_gradients(kind: str) -> None:
    """Width and number of tokens; images know nothing of each other; every parameter learns."""
    module, given = built(kind), image()
    found = module(given)
    assert found.values.shape == (3, COUNTS[kind], SHAPE.text_dim) and bool(found.is_real.all())
    turned = torch.tensor([2, 0, 1])
    torch.testing.assert_close(module(given.rows(turned)).values, found.values[turned], atol=1e-5, rtol=1e-4)
    found.values.square().sum().backward()
    lacking = [name for name, one in module.named_parameters() if one.grad is None or not bool(one.grad.any())]
    assert not lacking, lacking


@pytest.mark.parametrize("kind", PROJECTORS)
@torch.no_grad()
def test_an_image_without_a_real_token_gives_none(kind: str) -> None:
    given = image()
    empty = given._replace(is_real=given.is_real & (torch.arange(3) > 0)[:, None])
    assert built(kind)(empty).is_real.any(1).tolist() == [False, True, True]


@pytest.mark.parametrize("kind", ["resampler", "qformer"])
@torch.no_grad()
def test_queries_do_not_attend_to_padding(kind: str) -> None:
    module, given = built(kind), image()
    padded = Tokens(
        torch.cat([given.values, torch.full((3, 2, SHAPE.image_dim), 9.0)], 1),
        torch.cat([given.is_real, torch.zeros(3, 2, dtype=torch.bool)], 1),
        given.pooled,
    )
    torch.testing.assert_close(module(padded).values, module(given).values, atol=1e-5, rtol=1e-4)
