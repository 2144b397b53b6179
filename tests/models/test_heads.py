"""Heads by task: built in the order given, each from what it reads."""

import pytest
import torch
from torch import nn

from chiasm.models.heads import FusedClasses, FusedWords, HeadShape, HeadSpec, PooledClasses, build_heads

SHAPE = HeadShape(
    dim=8,
    image_dim=5,
    fused_dim=6,
    fused_token_dim=7,
    heads=2,
    layers=1,
    dropout=0.0,
    vocabulary=11,
    text_encoder=nn.Identity(),
    image_encoder=nn.Identity(),
    token_dim=4,
    grid_of=lambda tokens: (tokens, 1),
)


@pytest.mark.parametrize(
    ("spec", "width", "outputs"), [(PooledClasses(3), 5, 3), (FusedClasses(4, 2), 6, 4), (FusedWords(), 7, 11)]
)
def test_a_head_takes_what_it_reads(spec: HeadSpec, width: int, outputs: int) -> None:
    """Guards against a head that is as wide as another part of the model."""
    head = build_heads({"mine": spec}, SHAPE)["mine"]
    assert head(torch.zeros(2, width)).shape == (2, outputs)


def test_heads_are_built_in_the_order_given() -> None:
    """Guards against weights that depend on the order of a config rather than on the table of tasks."""
    specs = {"one": FusedClasses(2), "two": FusedWords()}
    torch.manual_seed(0)
    first = build_heads(specs, SHAPE)
    torch.manual_seed(0)
    alone = FusedClasses(2).build(SHAPE)
    assert list(first) == ["one", "two"]
    for mine, other in zip(first["one"].parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, other)
