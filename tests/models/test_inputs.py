"""Several values of one example as one row of tokens, against a loop."""

import torch

from chiasm.core.types import Tokens
from chiasm.models.inputs import grouped, separated, value_counts


def test_grouping_equals_a_loop() -> None:
    """Guards against values that are put into the wrong row or place."""
    generator = torch.Generator().manual_seed(0)
    row = torch.tensor([0, 0, 0, 2, 4, 4])
    tokens = Tokens(
        torch.randn(6, 2, 3, generator=generator),
        torch.rand(6, 2, generator=generator) > 0.3,
        torch.randn(6, 3, generator=generator),
    )
    found = grouped(tokens, row, 5)
    assert found.values.shape == (5, 6, 3)
    for number in range(5):
        own = [value for value in range(6) if row[value] == number]
        expected = torch.cat([tokens.values[value] for value in own]) if own else torch.zeros(0, 3)
        real = torch.cat([tokens.is_real[value] for value in own]) if own else torch.zeros(0, dtype=torch.bool)
        assert torch.equal(found.values[number, : len(expected)], expected)
        assert torch.equal(found.is_real[number, : len(real)], real) and not found.is_real[number, len(real) :].any()
        mean = torch.stack([tokens.pooled[value] for value in own]).mean(0) if own else torch.zeros(3)
        torch.testing.assert_close(found.pooled[number], mean)


def test_examples_without_any_value_are_padding_alone() -> None:
    """Guards against an absent input that is taken for a real one."""
    empty = Tokens(torch.zeros(0, 2, 3), torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0, 3))
    found = grouped(empty, torch.zeros(0, dtype=torch.long), 4)
    assert found.values.shape == (4, 2, 3) and not found.is_real.any() and not found.pooled.any()


def test_separating_undoes_grouping() -> None:
    """Values come back in order with the example of each; an example without any has none."""
    values, row = torch.randn(4, 3, 2), torch.tensor([0, 0, 2, 3])
    tokens = Tokens(values, torch.ones(4, 3, dtype=torch.bool), values.mean(1))
    joined = grouped(tokens, row, 4)
    alone, of = separated(joined)
    assert torch.equal(alone.values, values) and torch.equal(of, row) and bool(alone.is_real.all())
    assert value_counts(joined).tolist() == [2, 0, 1, 1]
    plain, of = separated(tokens)
    assert torch.equal(plain.values, values) and of.tolist() == [0, 1, 2, 3] == list(range(len(value_counts(tokens))))
