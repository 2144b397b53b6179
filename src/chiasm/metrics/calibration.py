"""Calibration error, temperature and Platt scaling, abstention thresholds and risk-coverage curves.

Fit a temperature or a threshold on validation data and measure on other data: both look too good where they were
chosen.

Axis legend: n answers, c classes, b bins, k distinct confidences.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.metrics.intervals import CONFIDENCE, RESAMPLES, wilson
from chiasm.metrics.paired import resampled_sums

FloatArray = npt.NDArray[np.float64]

BINS = 15
ABSTAIN_ALWAYS = 2.0
"""A threshold that no confidence reaches."""
TEMPERATURES = (0.01, 100.0)
"""Where `fit_temperature` searches."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers of similar confidence: a point of the reliability diagram.

    Args:
        low: confidences in the bin are above it (the first bin has its lower end too).
        high: and at most this.
        confidence: their mean confidence.
        accuracy: share of right ones, with its Wilson interval and count.
    """

    low: float
    high: float
    confidence: float
    accuracy: Score


@dataclass(frozen=True)
class RiskCoverage:
    """Share of wrong answers when only the most confident ones are given (Geifman and El-Yaniv 2017).

    Args:
        coverage: float64 [k], rising to 1: share of questions answered at each distinct confidence.
        risk: float64 [k]: share of wrong ones among those answered.
        area: mean risk over the answers, each at the coverage where it is first given; 0 is perfect, and a
            confidence that says nothing has the error rate.
    """

    coverage: FloatArray
    risk: FloatArray
    area: float


def expected_calibration_error(
    confidence: npt.ArrayLike,
    is_right: npt.ArrayLike,
    bins: int = BINS,
    seed: int = 0,
    clusters: npt.ArrayLike | None = None,
) -> Score:
    """Mean distance of confidence from accuracy over equal-width bins (Guo et al. 2017, equation 3), in [0, 1].

    A resample of the data has the noise of the sample and its own, and noise only ever adds to this error; the
    bootstrap interval is therefore moved so that its resamples centre on the measured value. The value itself keeps
    the noise of the sample: on few answers even a perfectly calibrated model is above 0.

    Args:
        confidence: numbers in [0, 1], [n].
        is_right: bool [n].
        bins: b, of width 1/b, closed above.
        seed: decides the resamples.
        clusters: int [n], equal for answers about one image, which are drawn together; None draws answers.
    """
    sure, right = _checked(confidence, is_right)
    group, groups = _groups(clusters, len(sure))
    # A bin weighs as much as it has answers, so that its weight times its gap is a plain sum. The last column counts.
    gaps = np.zeros((groups, _positive(bins) + 1))
    np.add.at(gaps, (group, _bin_of(sure, bins)), right - sure)
    gaps[:, -1] = np.bincount(group)
    value = float(np.abs(gaps[:, :-1].sum(0)).sum() / len(sure))
    sums = resampled_sums(gaps, seed, RESAMPLES)
    drawn = np.abs(sums[:, :-1]).sum(1) / sums[:, -1]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail)) - (drawn.mean() - value)
    return Score(value, max(0.0, min(value, float(low))), min(1.0, max(value, float(high))), len(sure))


def reliability_bins(confidence: npt.ArrayLike, is_right: npt.ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the bins of `expected_calibration_error` that hold answers, in order of confidence, for a chart."""
    sure, right = _checked(confidence, is_right)
    index = _bin_of(sure, _positive(bins))
    points = []
    for number in np.unique(index):
        chosen = index == number
        found, count = float(right[chosen].sum()), int(chosen.sum())
        accuracy = Score(found / count, *wilson(found, count), count)
        points.append(
            ReliabilityBin(float(number / bins), float((number + 1) / bins), float(sure[chosen].mean()), accuracy)
        )
    return points


def fit_temperature(logits: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Find T that minimises the negative log-likelihood of softmax(logits / T) (Guo et al. 2017, section 4.2).

    The loss is convex in 1/T, so that a golden-section search over log T finds the minimum; where there is none
    (every row is right), the result is an end of `TEMPERATURES`. Computed in float64.

    Args:
        logits: finite numbers [n, c].
        target: int [n] in [0, c).

    Returns:
        T; above 1 the model was too confident.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(target)
    fits = values.ndim == 2 and 0 not in values.shape and true.shape == values.shape[:1]
    if not (fits and np.isfinite(values).all() and np.issubdtype(true.dtype, np.integer)):
        raise InputError(
            f"logits {values.shape}, targets {true.dtype} {true.shape}",
            "finite logits [n, c] and integers [n], n of at least 1",
            "pass the model's logits on validation data and the true classes",
        )
    if true.min() < 0 or true.max() >= values.shape[1]:
        raise InputError(
            f"targets from {true.min()} to {true.max()}", f"0 to {values.shape[1] - 1}", "use the model's label list"
        )
    below_true = values - values[np.arange(len(values)), true][:, None]

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = below_true * np.exp(-log_temperature)
        highest = scaled.max(1, keepdims=True)
        return float((highest[:, 0] + np.log(np.exp(scaled - highest).sum(1))).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(_golden_section(negative_log_likelihood, float(low), float(high))))


def fit_platt(logit: npt.ArrayLike, is_true: npt.ArrayLike) -> tuple[float, float]:
    """Find T and b that minimise the negative log-likelihood of sigmoid(logit / T + b) (Platt 1999).

    Targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that events which the logit tells apart without error
    get no certainty from it. T stays within `TEMPERATURES`: a logit that says nothing, or the opposite, becomes the
    share of true events. Computed in float64.

    Args:
        logit: finite numbers [n].
        is_true: bool [n]; both values occur.

    Returns:
        T and b; with both 1 and 0, the logit was calibrated.
    """
    values, true = np.asarray(logit, dtype=np.float64), np.asarray(is_true, dtype=np.float64)
    fits = values.ndim == 1 and values.shape == true.shape and np.isfinite(values).all()
    if not fits or set(np.unique(true)) != {0.0, 1.0}:
        raise InputError(
            f"logits {values.shape}, outcomes {true.shape} of {len(np.unique(true))} kinds",
            "finite logits [n] and as many outcomes, some true and some false",
            "fit on more validation data",
        )
    positive = true.sum()
    target = np.where(true == 1, (positive + 1) / (positive + 2), 1 / (len(true) - positive + 2))

    def bias_at(slope: float) -> float:
        """The best bias: where the mean probability is the mean target, which rises with it."""
        low, high = -50.0 - abs(slope * values).max(), 50.0 + abs(slope * values).max()
        for _ in range(60):
            middle = (low + high) / 2
            below = _sigmoid(slope * values + middle).mean() < target.mean()
            low, high = (middle, high) if below else (low, middle)
        return float((low + high) / 2)

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = values * np.exp(-log_temperature)
        scaled = scaled + bias_at(float(np.exp(-log_temperature)))
        return float((np.logaddexp(0, scaled) - target * scaled).mean())

    low, high = np.log(TEMPERATURES)
    temperature = float(np.exp(_golden_section(negative_log_likelihood, float(low), float(high))))
    return temperature, bias_at(1 / temperature)


def abstain_threshold(
    confidence: npt.ArrayLike, is_right: npt.ArrayLike, risk: float, clusters: npt.ArrayLike | None = None
) -> float:
    """Find the smallest confidence from which on answers are wrong at most `risk` of the time.

    The guard for small samples: not the share itself but the upper end of its 95 % Wilson interval must be at most
    `risk`; 10 right answers of 10 allow only a risk of 0.28. Answers about one image are wrong together, so that they
    count as fewer: n is divided by the design effect of the clusters (Kish 1965), which is estimated from the errors,
    and taken at its most, as if all answers about an image were equal, where there is no error or nothing else. It
    guards each threshold alone; confirm the chosen one on other data.

    Args:
        confidence: numbers in [0, 1], [n], on validation data.
        is_right: bool [n].
        risk: accepted share of wrong answers, in (0, 1).
        clusters: int [n], equal for answers about one image; None takes the answers for independent.

    Returns:
        One of the confidences, or `ABSTAIN_ALWAYS` where none is safe. Answer where confidence is at least this.
    """
    if not 0 < risk < 1:
        raise InputError(f"a risk of {risk}", "a share in (0, 1)", "0.05 accepts one wrong answer in 20")
    sure, right = _checked(confidence, is_right)
    thresholds, answered, wrong = _by_threshold(sure, right)
    effect = np.ones(len(thresholds)) if clusters is None else _design_effects(sure, right, clusters)
    for threshold, count, errors, shrunk in zip(
        *(row[::-1] for row in (thresholds, answered, wrong, effect)), strict=True
    ):
        if wilson(float(errors / shrunk), float(count / shrunk))[1] <= risk:
            return float(threshold)
    return ABSTAIN_ALWAYS


def _design_effects(sure: FloatArray, right: FloatArray, clusters: npt.ArrayLike) -> FloatArray:
    """Variance of the share of wrong answers under clusters over that of independent answers, at each threshold.

    The linearised variance of a ratio (Cochran 1977, section 6.3), c / (c - 1) sum (e_i - p m_i)^2 / n^2 for e_i errors
    of m_i answers about image i, over p (1 - p) / n; at least 1. Sums run along with the falling confidence.
    """
    group, groups = _groups(clusters, len(sure))
    counts, errors = np.zeros(groups), np.zeros(groups)
    squares = products = sizes = 0.0
    answers = wrong = images = 0
    found = []
    order = np.argsort(-sure, kind="stable")
    for place, number in enumerate(order):
        at, is_wrong = group[number], 1 - right[number]
        e, m = errors[at], counts[at]
        images += m == 0
        sizes += 2 * m + 1
        products += (e + is_wrong) * (m + 1) - e * m
        squares += (2 * e + 1) * is_wrong
        errors[at], counts[at] = e + is_wrong, m + 1
        answers, wrong = answers + 1, wrong + is_wrong
        if place + 1 < len(order) and sure[order[place + 1]] == sure[number]:
            continue
        share = wrong / answers
        most = sizes / answers
        spread = squares - 2 * share * products + share**2 * sizes
        if images < 2 or share in (0, 1):
            found.append(most)
        else:
            effect = images / (images - 1) * spread / (answers * share * (1 - share))
            found.append(max(1.0, effect))
    return np.array(found)


def _groups(clusters: npt.ArrayLike | None, count: int) -> tuple[npt.NDArray[np.int64], int]:
    """Number of each answer's cluster from 0 on, int64 [n], and how many there are; None makes each its own."""
    if clusters is None:
        return np.arange(count), count
    names = np.asarray(clusters)
    if names.shape != (count,):
        raise InputError(f"{names.shape} clusters for {count} answers", "one cluster an answer", "pass both")
    found, index = np.unique(names, return_inverse=True)
    return index.astype(np.int64), len(found)


def risk_coverage(confidence: npt.ArrayLike, is_right: npt.ArrayLike) -> RiskCoverage:
    """Trace risk against coverage over all thresholds; answers of equal confidence are given together.

    Args:
        confidence: numbers in [0, 1], [n].
        is_right: bool [n].
    """
    _, answered, wrong = _by_threshold(*_checked(confidence, is_right))
    risk = wrong / answered
    added = np.diff(answered, prepend=0.0)
    return RiskCoverage(answered / answered[-1], risk, float((added * risk).sum() / answered[-1]))


def _by_threshold(sure: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distinct confidences from high to low, with the number of answers and of wrong ones at least as confident."""
    thresholds, index = np.unique(-sure, return_inverse=True)
    answered = np.cumsum(np.bincount(index)).astype(np.float64)
    return -thresholds, answered, np.cumsum(np.bincount(index, weights=1 - right))


def _sigmoid(values: FloatArray) -> FloatArray:
    found: FloatArray = np.exp(-np.logaddexp(0, -values))
    return found


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Minimise a function with one valley on [low, high] (Kiefer 1953) to about 1e-9 of its width."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(45):
        # Where it is flat, such as at a loss of exactly 0, the lower end.
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def _bin_of(sure: FloatArray, bins: int) -> npt.NDArray[np.int64]:
    """Bin m holds ((m - 1) / b, m / b]; 0 joins the first."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, sure, side="left").astype(np.int64)


def _positive(bins: int) -> int:
    if bins < 1:
        raise InputError(f"{bins} bins", "at least one bin", "15 are usual")
    return bins


def _checked(confidence: npt.ArrayLike, is_right: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    if sure.ndim != 1 or len(sure) == 0 or sure.shape != right.shape:
        raise InputError(f"{sure.shape} confidences, {right.shape} outcomes", "two equal non-empty rows", "pass both")
    # Written so that NaN fails too.
    if not ((sure >= 0) & (sure <= 1)).all() or not np.isin(right, (0.0, 1.0)).all():
        raise InputError(
            "confidences outside [0, 1] or outcomes that are neither right nor wrong",
            "confidences in [0, 1] and outcomes true or false",
            "pass probabilities, not logits",
        )
    return sure, right
