"""Paired intervals and tests: is one model better than another on the same images?

Two models succeed and fail on the same hard images, so that their difference is known far better than either
score: two overlapping intervals say nothing about it. The interval draws images and keeps the two outcomes of
each together (Efron and Tibshirani 1993; Koehn 2004 for corpus scores). The test swaps the two models' outcomes image
by image by a fair coin; the p-value is the share of swaps with a difference at least as large as the observed one.

Axis legend: n items, c clusters (images), s numbers that a score sums, r resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.metrics.intervals import CONFIDENCE, RESAMPLES, finite_matrix

FloatArray = npt.NDArray[np.float64]
CorpusScore = Callable[[FloatArray], FloatArray]
"""Maps summed statistics [..., s] to scores [...]."""

PAIRED_RESAMPLES = 2000
_CELLS_AT_ONCE = 4_000_000
"""Weights held in memory together (32 MB)."""
_TIE = 1e-9
"""A swapped difference this close to the observed one, relative to the scores, counts as equal to it: sums of other
order differ in the last bits."""


@dataclass(frozen=True)
class PairedResult:
    """How much the first model is above the second, on the same items.

    Args:
        difference: first score less second score.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        p_value: two-sided, in (0, 1]; never below 1 / (resamples + 1).
        n: items compared.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    seed: int = 0,
    resamples: int = PAIRED_RESAMPLES,
) -> PairedResult:
    """Compare the means of two models' outcomes on the same items in the same order.

    Args:
        first: numbers or bools [n], such as `exact_matches`, recall hits, or per-image CIDEr of one model.
        second: the same of the other model.
        clusters: int [n], equal for items of one image; they are drawn and swapped together.
        seed: decides the draws.
        resamples: r, of the bootstrap and of the test.

    Raises:
        InputError: unequal lengths, no items, or numbers that are not finite.
    """
    # A mean is a corpus score whose statistics are the sum and the count.
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or two.ndim != 1:
        raise InputError(f"outcomes {one.shape} and {two.shape}", "one outcome an item", "pass two rows of numbers")
    one, two = (np.stack([values, np.ones_like(values)], axis=1) for values in (one, two))
    return paired_corpus_difference(one, two, _mean, clusters, seed, resamples)


def paired_corpus_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    score: CorpusScore,
    clusters: npt.ArrayLike | None = None,
    seed: int = 0,
    resamples: int = PAIRED_RESAMPLES,
) -> PairedResult:
    """Compare two models by a score of summed statistics, such as BLEU, which is no mean over images.

    Args:
        first: float [n, s], such as `CaptionStatistics.bleu` of one model.
        second: the same of the other model, same items in the same order.
        score: from sums [..., s] to one score [...], such as `lambda sums: bleu_of_sums(sums)[..., 3]` for BLEU-4.
        clusters: int [n], equal for items of one image.
        seed: decides the draws.
        resamples: r, of the bootstrap and of the test.

    Raises:
        InputError: shapes that differ, no items, or numbers that are not finite.
    """
    one, two = _checked(first), _checked(second)
    if one.shape != two.shape or resamples < 1:
        raise InputError(
            f"{one.shape} and {two.shape} statistics, {resamples} resamples",
            "equal shapes, and at least one resample",
            "score both models on the same items in the same order",
        )
    one, two = _cluster_sums(one, clusters), _cluster_sums(two, clusters)
    total_one, total_two = one.sum(0), two.sum(0)
    value_one, value_two = score(total_one), score(total_two)
    difference = float(value_one - value_two)
    drawn = resampled_sums(np.concatenate([one, two], 1), seed, resamples)
    width = one.shape[1]
    low, high = np.quantile(score(drawn[:, :width]) - score(drawn[:, width:]), _ends())
    moved = _swapped_sums(one - two, seed, resamples)
    swapped = score(total_one - moved) - score(total_two + moved)
    margin = _TIE * max(1e-300, abs(float(value_one)), abs(float(value_two)))
    as_large = int((np.abs(swapped) >= abs(difference) - margin).sum())
    return PairedResult(difference, float(low), float(high), (1 + as_large) / (1 + resamples), len(np.asarray(first)))


def corpus_interval(
    statistics: FloatArray,
    score: CorpusScore,
    clusters: npt.ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[FloatArray, FloatArray]:
    """95 % percentile interval of one model's corpus score; `score` may return several scores [..., k] at once.

    Args:
        statistics: float [n, s].
        score: from sums [..., s] to scores.
        clusters: int [n], equal for items of one image.
        seed: decides the draws.
        resamples: r.

    Returns:
        `(low, high)`, of the shape of one score.
    """
    sums = resampled_sums(_cluster_sums(_checked(statistics), clusters), seed, resamples)
    low, high = np.quantile(score(sums), _ends(), axis=0)
    return low, high


def resampled_sums(statistics: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Sums of c rows drawn with replacement from `statistics` [c, s], r times: float64 [r, s]."""
    rng = counter_rng("corpus bootstrap", seed)
    size = len(statistics)
    sums = np.empty((resamples, statistics.shape[1]))
    rows = max(1, _CELLS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, size, size=(count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        sums[start : start + count] = times @ statistics
    return sums


def _swapped_sums(differences: FloatArray, seed: int, resamples: int) -> FloatArray:
    """Sum of the differences [c, s] of the clusters whose outcomes are swapped, each by a fair coin: [r, s]."""
    rng = counter_rng("sign flips", seed)
    size = len(differences)
    sums = np.empty((resamples, differences.shape[1]))
    rows = max(1, _CELLS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        # Not int8: that drops the rest of a random word at the end of a block, and the draws would depend on blocks.
        is_swapped = rng.integers(0, 2, size=(count, size), dtype=np.int32)
        sums[start : start + count] = is_swapped.astype(np.float64) @ differences
    return sums


def _cluster_sums(statistics: FloatArray, clusters: npt.ArrayLike | None) -> FloatArray:
    if clusters is None:
        return statistics
    names = np.asarray(clusters)
    if names.shape != (len(statistics),):
        raise InputError(f"{names.shape} clusters for {len(statistics)} items", "one cluster an item", "pass both")
    _, index = np.unique(names, return_inverse=True)
    return np.stack([np.bincount(index, weights=column) for column in statistics.T], axis=1)


def _checked(statistics: npt.ArrayLike) -> FloatArray:
    do = "check that the split has examples and that the models' outputs are finite"
    return finite_matrix(statistics, "outcomes", do)


def _mean(sums: FloatArray) -> FloatArray:
    return sums[..., 0] / sums[..., 1]


def _ends() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
