"""Perplexity against loops over tokens, and its paired ratio."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.metrics.perplexity import perplexity, perplexity_ratio

probabilities = st.lists(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), min_size=1, max_size=8)


def sums(texts: list[list[float]]) -> tuple[list[float], list[int]]:
    """Summed log-likelihood and number of tokens of each text."""
    return [sum(math.log(p) for p in text) for text in texts], [len(text) for text in texts]


@given(probabilities)
def test_inverse_geometric_mean(texts: list[list[float]]) -> None:
    """One over the geometric mean of all tokens' probabilities, each token counting once, whatever its text."""
    tokens = [p for text in texts for p in text]
    score = perplexity(*sums(texts))
    assert score.value == pytest.approx(math.prod(1 / p for p in tokens) ** (1 / len(tokens)))
    assert score.n == len(texts)
    assert score.low - 1e-9 <= score.value <= score.high + 1e-9 or len(texts) < 5


def test_uniform_is_the_vocabulary() -> None:
    """A model that knows nothing hesitates between all tokens."""
    score = perplexity([-3 * math.log(50), -math.log(50)], [3, 1])
    assert (score.value, score.low, score.high) == (pytest.approx(50), pytest.approx(50), pytest.approx(50))


def test_ratio_is_paired() -> None:
    """Both models stumble over the same texts: the ratio is known far better than either perplexity."""
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 20, 80)
    hard = -counts * rng.uniform(1, 6, 80)
    ratio = perplexity_ratio(1.02 * hard, hard, counts)
    first, second = perplexity(1.02 * hard, counts), perplexity(hard, counts)
    assert ratio.value == pytest.approx(first.value / second.value)
    assert ratio.low < ratio.value < ratio.high
    assert (ratio.high - ratio.low) < 0.2 * (first.high / second.low - first.low / second.high)
    assert perplexity_ratio(hard, hard, counts).high == 1


@pytest.mark.parametrize(
    ("log_likelihood", "tokens"),
    [([], []), ([-1.0], [1, 2]), ([-1.0], [0]), ([0.5], [1]), ([float("nan")], [1]), ([float("-inf")], [1])],
)
def test_wrong_input(log_likelihood: list[float], tokens: list[int]) -> None:
    """No texts, texts without a token, logarithms of what is no probability."""
    with pytest.raises(InputError):
        perplexity(log_likelihood, tokens)
