"""Answers by likelihood against a loop, and their probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from chiasm.core.errors import InputError
from chiasm.metrics.likelihood import choose, yes_or_no

scores = arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-50, 0))


@given(scores, st.data())
def test_equals_a_loop(log_likelihood: np.ndarray, data: st.DataObject) -> None:
    """The best of the candidates that are there, with a softmax over them, for sums and for means."""
    tokens = data.draw(arrays.arrays(np.int64, log_likelihood.shape, elements=st.integers(1, 7)))
    is_there = data.draw(arrays.arrays(np.bool_, log_likelihood.shape))
    is_there[:, 0] = True
    for lengths in (None, tokens):
        chosen = choose(log_likelihood, lengths, is_there)
        for row in range(len(log_likelihood)):
            value = {
                at: log_likelihood[row, at] / (1 if lengths is None else lengths[row, at])
                for at in range(log_likelihood.shape[1])
                if is_there[row, at]
            }
            total = sum(math.exp(one) for one in value.values())
            assert value[int(chosen.best[row])] == max(value.values())
            for at in range(log_likelihood.shape[1]):
                assert chosen.probability[row, at] == pytest.approx(math.exp(value[at]) / total if at in value else 0)


def test_length_normalisation_by_hand() -> None:
    """The sum prefers the short answer, the mean a token the long one."""
    assert choose([[-2.0, -3.0]]).best.tolist() == [0]
    assert choose([[-2.0, -3.0]], [1, 3]).best.tolist() == [1]


@given(st.lists(st.tuples(st.floats(-900, 0), st.floats(-900, 0)), min_size=1, max_size=6))
def test_yes_or_no(pairs: list[tuple[float, float]]) -> None:
    """Yes where it is likelier; the probability is a logistic function of the difference, and of nothing else."""
    yes, no = np.array(pairs).T
    said, probability = yes_or_no(yes, no)
    assert said.tolist() == [a > b for a, b in pairs]
    expected = [1 / (1 + math.exp(b - a)) if b - a < 700 else 0.0 for a, b in pairs]
    assert probability.tolist() == pytest.approx(expected)
    swapped = yes_or_no(no, yes)[1]
    assert (probability + swapped).tolist() == pytest.approx([1.0] * len(pairs))


def test_impossible_candidates() -> None:
    """Minus infinity is a candidate with probability 0; a question of such alone is refused by its number."""
    assert choose([[-np.inf, -1.0]]).probability.tolist() == [[0, 1]]
    with pytest.raises(InputError, match="question 1"):
        choose([[-1.0, -1.0], [-np.inf, -np.inf]])


@pytest.mark.parametrize(
    ("log_likelihood", "tokens"), [([1.0], None), ([[float("nan")]], None), ([[-1.0]], [0]), ([[-1.0]], [1, 2])]
)
def test_wrong_input(log_likelihood: list, tokens: list | None) -> None:
    """Shapes that differ, what is no number, answers without a token."""
    with pytest.raises(InputError):
        choose(log_likelihood, tokens)
