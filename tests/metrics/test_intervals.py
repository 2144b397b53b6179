"""Intervals against published values, slow loops and their own promise: to cover the truth 95 times in 100."""

import time

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.intervals import bootstrap_mean, mean_of_draws, proportion, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (Wilson without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_newcombe_table(successes: int, n: int, low: float, high: float) -> None:
    """Guards against a wrong z, a missing term or the simple (Wald) formula."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_where_the_score_test_rejects() -> None:
    """Wilson's ends solve |p - p0| = z sqrt(p0 (1 - p0) / n): guards the algebra for every size."""
    for successes, n in ((3, 7), (50, 100), (999, 1000)):
        for end in wilson(successes, n):
            distance = abs(successes / n - end) / np.sqrt(end * (1 - end) / n)
            assert distance == pytest.approx(1.959964, abs=1e-5)


def test_wilson_has_width_at_the_ends() -> None:
    """A perfect score on ten examples is no certainty."""
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@pytest.mark.parametrize("arguments", [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(arguments: tuple[int, int]) -> None:
    """Guards against a division by zero or the root of a negative number reaching a report."""
    with pytest.raises(InputError):
        wilson(*arguments)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    """For many values the percentile interval is mean +- 1.96 s / sqrt(n): guards scale and quantiles."""
    values = np.random.default_rng(1).exponential(2.0, size=4000)
    score = bootstrap_mean(values, seed=3)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert score.value == pytest.approx(values.mean())
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.1)
    assert score.n == 4000


def test_cluster_bootstrap_equals_a_slow_loop() -> None:
    """Draws whole pictures of unequal size, item by item, with another generator: guards the ratio of totals."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), rng.integers(1, 9, size=60))
    values = (rng.random(60)[clusters] + 0.3 * rng.random(len(clusters))) / 1.3
    means = []
    for _ in range(4000):
        drawn = np.concatenate([values[clusters == one] for one in rng.integers(0, 60, size=60)])
        means.append(drawn.mean())
    score = bootstrap_mean(values, clusters, resamples=4000)
    expected = np.quantile(means, (0.025, 0.975))
    assert (score.low, score.high) == pytest.approx(tuple(expected), abs=0.01)


def test_clusters_widen_the_interval_as_theory_says() -> None:
    """Ten equal answers a picture carry the information of one: the interval must be sqrt(10) times wider."""
    outcomes = np.repeat(np.random.default_rng(4).random(500) < 0.6, 10)
    alone, together = proportion(outcomes), proportion(outcomes, np.repeat(np.arange(500), 10))
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(10), rel=0.1)
    assert together.n == 5000


def test_interval_covers_the_truth() -> None:
    """Coverage over 300 made-up test sets: guards an interval that is too narrow, the usual way to lie."""
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        skill = rng.beta(7, 3, size=80)
        outcomes = rng.random((80, 5)) < skill[:, None]
        score = proportion(outcomes.ravel(), np.repeat(np.arange(80), 5), seed=trial)
        covered += score.low <= 0.7 <= score.high
    assert 0.91 <= covered / 300 <= 0.985


def test_equal_clusters_keep_width() -> None:
    """All right in ten pictures: a bootstrap alone would claim an interval of width zero."""
    score = proportion(np.ones(40), np.repeat(np.arange(10), 4))
    assert (score.low, score.high) == pytest.approx(wilson(10, 10))


def test_same_seed_same_interval_and_no_global_state() -> None:
    """A report must be reproducible whatever was drawn before."""
    values = np.arange(50.0)
    first = bootstrap_mean(values, seed=1)
    np.random.default_rng().random(7)
    assert bootstrap_mean(values, seed=1) == first
    assert bootstrap_mean(values, seed=2) != first


def test_five_thousand_items_in_a_second() -> None:
    """Guards against a Python loop over resamples."""
    values, clusters = np.random.default_rng(0).random(5000), np.arange(5000) // 5
    start = time.process_time()
    bootstrap_mean(values)
    bootstrap_mean(values, clusters)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_refuses_what_has_no_mean(values: list[float]) -> None:
    """An empty split or a NaN must stop the report, not print as a number."""
    with pytest.raises(InputError):
        bootstrap_mean(values)


def test_proportion_refuses_values_outside_zero_and_one() -> None:
    """A CIDEr of 1.3 is no proportion."""
    with pytest.raises(InputError, match="bootstrap_mean"):
        proportion([0.2, 1.3])


@pytest.mark.parametrize("count", [2, 3, 10, 40])
def test_the_interval_of_draws_is_students(count: int) -> None:
    """Parity with SciPy's t; two draws have the heaviest tails and must not be cut off."""
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(0.5, 0.1, count)
    score = mean_of_draws(values)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (score.value, score.low, score.high) == pytest.approx((values.mean(), low, high), abs=1e-4)
    assert score.n == count
    with pytest.raises(InputError, match="at least 2"):
        mean_of_draws([0.5])
