"""95 % intervals: how far a measured number may be from the one an endless test set would give.

Independent yes/no outcomes take Wilson's interval. Values that come several to an image (questions, captions)
take a bootstrap that draws images: questions about one image succeed and fail together, and an interval that
treats them as independent is too narrow.

Axis legend: n values, c clusters (images), r resamples.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Score

CONFIDENCE = 0.95
RESAMPLES = 1000
_DRAWS_AT_ONCE = 2_000_000
"""Random picks held in memory together (16 MB)."""


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209; no continuity correction).

    Unlike `p +- 1.96 sqrt(p (1 - p) / n)` it stays in [0, 1] and has width where every outcome is equal.

    Args:
        successes: number of successes in [0, n].
        n: number of outcomes, above 0; an effective number, of outcomes that depend on each other, need not be whole.
        confidence: coverage in (0, 1).

    Returns:
        `(low, high)`, both in [0, 1].
    """
    if n <= 0 or not 0 <= successes <= n or not 0 < confidence < 1:
        raise InputError(
            f"{successes} successes of {n} at confidence {confidence}",
            "0 <= successes <= n, n above 0, confidence in (0, 1)",
            "measure on at least one example",
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    middle = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    # The share itself lies inside, also where rounding puts an end of 1 just below it.
    return max(0.0, min(share, (middle - half) / scale)), min(1.0, max(share, (middle + half) / scale))


def bootstrap_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Score:
    """Mean of any finite values with a percentile bootstrap interval (Efron 1979).

    For yes/no outcomes use `proportion`, which also has width where all outcomes are equal.

    Args:
        values: numbers [n].
        clusters: int [n]; values with equal number are drawn together (the questions of an image). None draws
            values one by one.
        seed: decides the resamples, together with nothing else.
        resamples: r; 1000 fixes the ends of the interval to about 5 % of its width.
    """
    numbers = _checked(values)
    sums, counts = _cluster_totals(numbers, clusters)
    means = _resampled_means(sums, counts, seed, resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Score(float(numbers.mean()), float(low), float(high), len(numbers))


def mean_of_draws(values: npt.ArrayLike) -> Score:
    """Mean of a few repetitions with Student's t interval (Student 1908), n - 1 degrees of freedom.

    A bootstrap of ten values is too narrow by a tenth. The interval covers the repetitions alone: it leaves out
    what they share, such as the test images.

    Args:
        values: one number a repetition, at least 2.
    """
    numbers = _checked(values)
    if len(numbers) < 2:
        raise InputError(f"{len(numbers)} repetition", "at least 2", "repeat it")
    mean = float(numbers.mean())
    half = _student_quantile(len(numbers) - 1) * float(numbers.std(ddof=1)) / len(numbers) ** 0.5
    return Score(mean, mean - half, mean + half, len(numbers))


def _student_quantile(freedom: int) -> float:
    """The t that the share `CONFIDENCE` of Student's distribution lies within, plus or minus."""
    # With t = sqrt(freedom) tan(angle) the density is cos(angle) ** (freedom - 1): no tail is cut off.
    angles = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(CONFIDENCE, share / share[-1], angles)))


def proportion(outcomes: npt.ArrayLike, clusters: npt.ArrayLike | None = None, seed: int = 0) -> Score:
    """Share of outcomes that are true, with its interval.

    Without clusters: Wilson. With clusters: bootstrap over clusters; where every cluster has the same share the
    bootstrap has no width, and Wilson over the number of clusters takes its place.

    Args:
        outcomes: bool (or numbers in [0, 1], such as partly right answers) [n].
        clusters: int [n], equal for outcomes of one image; None if outcomes are independent.
        seed: decides the resamples.
    """
    numbers = _checked(outcomes)
    if numbers.min() < 0 or numbers.max() > 1:
        raise InputError(
            f"outcomes from {numbers.min():g} to {numbers.max():g}", "values in [0, 1]", "use bootstrap_mean"
        )
    share = float(numbers.mean())
    if clusters is None:
        return Score(share, *wilson(float(numbers.sum()), len(numbers)), len(numbers))
    sums, counts = _cluster_totals(numbers, clusters)
    if np.ptp(sums / counts) < 1e-12:
        return Score(share, *wilson(share * len(sums), len(sums)), len(numbers))
    return bootstrap_mean(numbers, clusters, seed)


def finite_matrix(values: npt.ArrayLike, what: str, do: str) -> npt.NDArray[np.float64]:
    """`values` as float64 with two axes of at least one row and one column, all finite.

    Raises:
        InputError: they are not; `what` names them, `do` says what to check.
    """
    numbers = np.asarray(values, dtype=np.float64)
    is_finite = bool(np.isfinite(numbers).all())
    if numbers.ndim != 2 or 0 in numbers.shape or not is_finite:
        raise InputError(
            f"{what} of shape {numbers.shape}" + ("" if is_finite else " with numbers that are not finite"),
            "two axes, at least one row and one column, all finite",
            do,
        )
    return numbers


def _checked(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or not np.isfinite(numbers).all():
        raise InputError(
            f"values of shape {numbers.shape}" + ("" if np.isfinite(numbers).all() else ", some not finite"),
            "one axis, at least one value, all finite",
            "check that the split has examples and that the model's outputs are finite",
        )
    return numbers


def _cluster_totals(
    numbers: npt.NDArray[np.float64], clusters: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return sum and count of each cluster: a resample's mean is a ratio of drawn sums and drawn counts."""
    if clusters is None:
        return numbers, np.ones_like(numbers)
    names = np.asarray(clusters)
    if names.shape != numbers.shape:
        raise InputError(f"{names.shape} clusters for {numbers.shape} values", "one cluster a value", "pass both")
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, weights=numbers).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], seed: int, resamples: int
) -> npt.NDArray[np.float64]:
    """Draw c clusters with replacement, r times: float64 [r]."""
    rng = counter_rng("bootstrap", seed)
    size = len(sums)
    equal_counts = bool((counts == counts[0]).all())
    means = np.empty(resamples)
    rows = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, size, size=(stop - start, size), dtype=np.int32)
        total = counts[0] * size if equal_counts else counts[drawn].sum(1)
        means[start:stop] = sums[drawn].sum(1) / total
    return means
