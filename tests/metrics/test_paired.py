"""Paired comparison against exact enumeration, SciPy, and its own promises: coverage and size by simulation."""

from itertools import product

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.captions import bleu, bleu_of_sums, bleu_statistics, cider_d
from chiasm.metrics.intervals import bootstrap_mean, wilson
from chiasm.metrics.paired import corpus_interval, paired_corpus_difference, paired_difference


def test_interval_is_that_of_the_differences() -> None:
    """A paired bootstrap of two means is a bootstrap of the mean difference: guards draws that part the pairs."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=400) * 5
    first, second = hard + rng.normal(size=400) + 0.3, hard + rng.normal(size=400)
    result = paired_difference(first, second)
    expected = bootstrap_mean(first - second)
    assert result.difference == pytest.approx(expected.value)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert result.n == 400


def test_clusters_are_drawn_and_swapped_whole() -> None:
    """Nine copies of every item are no more evidence than one."""
    rng = np.random.default_rng(1)
    first, second = rng.random(80) < 0.65, rng.random(80) < 0.5
    once = paired_difference(first, second)
    copied = paired_difference(np.repeat(first, 9), np.repeat(second, 9), clusters=np.repeat(np.arange(80), 9))
    assert copied.n == 720
    assert copied.difference == pytest.approx(once.difference)
    assert (copied.low, copied.high, copied.p_value) == pytest.approx((once.low, once.high, once.p_value))
    assert paired_difference(np.repeat(first, 9), np.repeat(second, 9)).p_value < once.p_value / 2


def test_p_value_equals_all_swaps() -> None:
    """Eight clusters of unequal size and all 256 ways to swap them: guards one-sided counts and lost ties."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(8), [1, 2, 3, 1, 2, 3, 1, 4])
    first, second = rng.random(17) < 0.75, rng.random(17) < 0.35
    gap = first.astype(float) - second
    observed = abs(gap.sum())
    sums = [abs(sum(sign * gap[clusters == c].sum() for c, sign in enumerate(s))) for s in product((-1, 1), repeat=8)]
    exact = np.mean([value >= observed - 1e-9 for value in sums])
    assert 0.02 < exact < 0.6
    result = paired_difference(first, second, clusters, resamples=20000)
    assert result.p_value == pytest.approx(exact, abs=0.012)
    assert paired_difference(second, first, clusters, resamples=20000).p_value == result.p_value


def test_sums_that_differ_in_the_last_bits_are_ties() -> None:
    """Seven steps of 0.1 up and one down: 18 of the 256 swaps are as large, most of them only but for rounding."""
    second = np.array([0.3, 0.7, 0.2, 0.6, 0.1, 0.9, 0.4, 0.7])
    first = second + np.array([0.1] * 7 + [-0.1])
    assert paired_difference(first, second, resamples=20000).p_value == pytest.approx(18 / 256, abs=0.008)


def test_p_value_is_near_the_sign_test_of_mcnemar() -> None:
    """For yes/no outcomes the test is McNemar's exact one: 30 against 12 differing items."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    first = np.array([1] * 30 + [0] * 12 + [1] * 200)
    second = np.array([0] * 30 + [1] * 12 + [1] * 200)
    expected = stats.binomtest(12, 42).pvalue
    assert paired_difference(first, second, resamples=40000).p_value == pytest.approx(expected, abs=0.0012)


def test_size_and_coverage() -> None:
    """Equal models differ at 5 % in 5 % of draws, and the interval has the true difference in 95 %."""
    rng = np.random.default_rng(4)
    rejected = covered = 0
    rounds = 300
    for seed in range(rounds):
        hardness = np.repeat(rng.normal(size=60), 3)
        clusters = np.repeat(np.arange(60), 3)
        # Each model has luck of its own with each picture, which the questions about the picture share.
        luck = [np.repeat(rng.normal(size=60), 3) for _ in range(2)]
        first, second = (hardness + one + 0.3 * rng.normal(size=180) for one in luck)
        rejected += paired_difference(first, second, clusters, seed, resamples=400).p_value <= 0.05
        shifted = paired_difference(first + 0.7, second, clusters, seed, resamples=400)
        covered += shifted.low <= 0.7 <= shifted.high
    low, high = wilson(rejected, rounds, confidence=0.999)
    assert low <= 0.05 <= high
    low, high = wilson(covered, rounds, confidence=0.999)
    assert low <= 0.95 <= high


def test_equal_models_do_not_differ() -> None:
    """Every swap is as large as nothing: p is 1, never 0."""
    result = paired_difference([0.1, 0.7, 0.4], [0.1, 0.7, 0.4])
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_p_value_is_never_zero() -> None:
    """A thousand better items: the observed outcome itself is one of the swaps."""
    assert paired_difference(np.ones(1000), np.zeros(1000), resamples=999).p_value == pytest.approx(1 / 1000)


def _captions(seed: int, share_wrong: float) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    noise = np.random.default_rng(seed + 1000)
    truth = [[f"w{number}" for number in rng.integers(0, 40, 9)] for _ in range(150)]
    return [[word if noise.random() > share_wrong else "x" for word in text] for text in truth]


def test_corpus_scores_are_compared_as_corpus_scores() -> None:
    """BLEU-4 of sums, not the mean of 150 BLEUs; the interval equals that of a slow loop that counts anew."""
    references = [[text] for text in _captions(0, 0.0)]
    good, bad = _captions(0, 0.1), _captions(0, 0.2)
    first, second = bleu_statistics(good, references), bleu_statistics(bad, references)
    result = paired_corpus_difference(first, second, lambda sums: bleu_of_sums(sums)[..., 3])
    assert result.difference == pytest.approx(bleu(good, references)[3] - bleu(bad, references)[3])
    rng = np.random.default_rng(8)
    slow = []
    for _ in range(120):
        rows = rng.integers(0, 150, 150)
        truth = [references[row] for row in rows]
        slow.append(bleu([good[row] for row in rows], truth)[3] - bleu([bad[row] for row in rows], truth)[3])
    assert result.high - result.low == pytest.approx(2 * 1.96 * np.std(slow), rel=0.25)
    assert result.p_value == pytest.approx(1 / 2001)
    assert paired_corpus_difference(first, first, lambda sums: bleu_of_sums(sums)[..., 3]).p_value == 1
    assert paired_difference(cider_d(good, references), cider_d(bad, references)).low > 0


def test_corpus_swaps_equal_mean_swaps_on_a_mean() -> None:
    """A corpus score that is a mean must give the mean's p-value: guards sums swapped in one model only."""
    rng = np.random.default_rng(6)
    first, second = rng.random(50), rng.random(50) + 0.1
    plain = paired_difference(first, second)
    scaled = paired_corpus_difference(first[:, None], second[:, None], lambda sums: sums[..., 0] / 50)
    assert scaled.p_value == plain.p_value
    assert (scaled.low, scaled.high) == pytest.approx((plain.low, plain.high))


def test_interval_of_several_corpus_scores_keeps_their_order() -> None:
    """One call gives all four BLEUs: guards a quantile over the wrong axis."""
    statistics = bleu_statistics(_captions(3, 0.2), [[text] for text in _captions(3, 0.0)])
    low, high = corpus_interval(statistics, bleu_of_sums)
    values = bleu_of_sums(statistics.sum(0))
    assert low.shape == high.shape == (4,)
    assert (low < values).all() and (values < high).all()


def test_seed_decides_and_memory_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds give equal numbers however many draws fit in memory at once."""
    rng = np.random.default_rng(7)
    first, second = rng.random(90), rng.random(90)
    whole = paired_difference(first, second, seed=3)
    assert paired_difference(first, second, seed=3) == whole
    assert paired_difference(first, second, seed=4).low != whole.low
    monkeypatch.setattr("chiasm.metrics.paired._CELLS_AT_ONCE", 90 * 7)
    blocks = paired_difference(first, second, seed=3)
    assert (blocks.low, blocks.high, blocks.p_value) == pytest.approx((whole.low, whole.high, whole.p_value))


@pytest.mark.parametrize(
    ("first", "second", "clusters"),
    [([], [], None), ([1, 2], [1], None), ([1, np.nan], [1, 2], None), ([1, 2], [1, 2], [0]), ([[1]], [[1]], None)],
)
def test_wrong_input_is_refused(first: list[float], second: list[float], clusters: list[int] | None) -> None:
    """Two models scored on different items have no paired difference."""
    with pytest.raises(InputError):
        paired_difference(first, second, clusters)
