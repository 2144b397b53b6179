"""A cache layer with room against one that is copied for each token."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [llm]")
from transformers.cache_utils import DynamicLayer

from chiasm.models.pretrained.growing_layer import LEAST_ROOM, GrowingLayer

SHAPE = (2, 3, 4)
"""Rows, heads and the width of a head."""


def tokens(count: int, seed: int, rows: int = SHAPE[0]) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of new positions."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, SHAPE[1], count, SHAPE[2])
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@torch.no_grad()
def test_rows_that_grow_leave_and_are_cut_hold_what_copies_hold() -> None:
    """Each view is compared after all later writes: room that is written twice would change an earlier one."""
    ours, theirs = GrowingLayer(), DynamicLayer()
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    counts = [7, 1, 1, 3, *[1] * (LEAST_ROOM + 5), 2, 1, 1, 1]
    for number, count in enumerate(counts):
        new = tokens(count, number, rows=3 if number > 20 else 2)
        given += zip(ours.update(*new), (part.clone() for part in theirs.update(*new)), strict=True)
        if number == 20:  # rows are repeated, as beams are
            for layer in (ours, theirs):
                layer.keys, layer.values = (part[torch.tensor([1, 0, 1])] for part in (layer.keys, layer.values))
        if number == 30:  # the last position is drawn anew
            for layer in (ours, theirs):
                layer.keys, layer.values = (part[:, :, :-1] for part in (layer.keys, layer.values))
    assert ours.get_seq_length() == theirs.get_seq_length() == sum(counts) - 1
    for mine, copied in given:
        assert torch.equal(mine, copied)


@torch.no_grad()
def test_a_token_is_written_into_room_and_a_beginning_takes_its_own_size() -> None:
    """What a store of beginnings holds is not more than it counts; the tokens behind it are not copied again."""
    layer = GrowingLayer()
    whole = tokens(50, 0)
    layer.update(*(part[:, :, 10:30] for part in whole))
    assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes
    layer.update(*tokens(1, 1))
    address = layer.keys.data_ptr()
    for number in range(LEAST_ROOM):
        layer.update(*tokens(1, number))
    assert layer.keys.data_ptr() == address


def test_gradients_reach_what_was_read_first() -> None:
    """Training reads common beginnings once; attention keeps the keys of each step for its backward pass."""
    parts = [part.requires_grad_() for count in (4, 2, 1) for part in tokens(count, count)]
    query, layer = torch.ones(SHAPE[-1]).requires_grad_(), GrowingLayer()
    total = torch.zeros(())
    for start in (0, 2, 4):
        keys, values = layer.update(*parts[start : start + 2])
        total = total + (keys * query).sum() + values.sum()
    total.backward()
    for place, part in enumerate(parts):
        assert part.grad is not None
        torch.testing.assert_close(part.grad, torch.full_like(part, 3 - place // 2))
    assert query.grad is not None
    often = sum((3 - place // 2) * part.sum((0, 1, 2)) for place, part in enumerate(parts) if place % 2 == 0)
    torch.testing.assert_close(query.grad, often)
