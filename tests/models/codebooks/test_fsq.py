"""Finite scalar quantisation: codes and vectors are one to one, and every level is reached."""

from itertools import product

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.models.codebooks.fsq import ScalarConfig, ScalarQuantizer


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,), (7, 6)])
def test_codes_and_vectors_are_one_to_one(levels: tuple[int, ...]) -> None:
    """Guards against a radix that counts a code twice."""
    tested = ScalarQuantizer(levels)
    vectors = tested.vectors(torch.arange(tested.codes))
    expected = {tuple((digit - count // 2) / (count // 2) for digit, count in zip(digits, levels, strict=True))
                for digits in product(*(range(count) for count in levels))}  # fmt: skip
    assert {tuple(round(one, 5) for one in row) for row in vectors.tolist()} == {
        tuple(round(one, 5) for one in row) for row in expected
    }
    assert torch.equal(tested.ids_of(vectors), torch.arange(tested.codes))


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7, 6)])
def test_every_level_is_reached_and_none_beyond(levels: tuple[int, ...]) -> None:
    """Guards against a bound that leaves the outermost level out, or rounds to one more."""
    tested = ScalarQuantizer(levels)
    sweep = torch.linspace(-9, 9, 4001)[:, None].expand(-1, len(levels))
    values, ids, _ = tested(sweep, 0)
    for place, count in enumerate(levels):
        assert len(values[:, place].unique()) == count
        assert bool((values[1:, place] >= values[:-1, place]).all())
    assert int(ids.min()) >= 0 and int(ids.max()) < tested.codes
    assert tested.bounded(torch.zeros(1, len(levels))).abs().max() < 1e-5


def test_wrong_levels_are_refused() -> None:
    """Guards against a number of one level, which says nothing and divides by 0."""
    for levels in ((), (8, 1)):
        with pytest.raises(InputError, match="levels"):
            ScalarConfig(levels=levels).check("model.image.quantizer")
