"""The querying transformer: widths of its own, and refusals."""

import pytest
import torch
from projecting import SHAPE, image

from chiasm.core.errors import InputError
from chiasm.models.bridge.qformer import QFormer, QFormerConfig


@torch.no_grad()
def test_queries_differ_and_depend_on_the_image() -> None:
    module = QFormer(SHAPE, QFormerConfig(queries=4, dim=12, layers=2, heads=3)).eval()
    found = module(image(9)).values
    assert found.shape == (3, 4, 8)
    assert (found[:, :1] - found[:, 1:]).abs().amin(dim=(0, 1)).max() > 1e-3
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_heads_of_unequal_width_are_refused() -> None:
    with pytest.raises(InputError, match="no multiple"):
        QFormerConfig(dim=10, heads=4).check("tasks.conversation.projector")
