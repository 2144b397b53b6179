"""Calibration against slow loops, SciPy's minimiser, and models whose calibration is known by construction."""

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.calibration import (
    ABSTAIN_ALWAYS,
    TEMPERATURES,
    abstain_threshold,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    reliability_bins,
    risk_coverage,
)
from chiasm.metrics.intervals import wilson


def _answers(seed: int, n: int = 400, places: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Confidences with ties, right as often as they say."""
    rng = np.random.default_rng(seed)
    sure = np.round(rng.random(n), places)
    return sure, rng.random(n) < sure


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_equals_a_slow_loop(bins: int) -> None:
    """Bins closed above, 0 in the first: guards edges, weights and signs that cancel between bins."""
    sure, right = _answers(0)
    right = right ^ (sure > 0.7)
    expected = 0.0
    for number in range(bins):
        chosen = [i for i, p in enumerate(sure) if (number / bins < p <= (number + 1) / bins) or (number == 0 == p)]
        if chosen:
            expected += len(chosen) / len(sure) * abs(np.mean(right[chosen]) - np.mean(sure[chosen]))
    assert expected_calibration_error(sure, right, bins).value == pytest.approx(expected)


def test_edges_of_bins_belong_below() -> None:
    """0.6 is the end of a bin of five; a bin of its own would split the two answers."""
    assert expected_calibration_error([0.6, 0.5], [True, False], bins=5).value == pytest.approx(0.05)
    assert expected_calibration_error([0.0, 1.0], [False, True]).value == 0


def test_interval_covers_the_true_error() -> None:
    """A model that says 0.8 and is right 0.6 of the time errs by 0.2: the interval must have it 95 times in 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(150):
        sure = rng.uniform(0.72, 0.79, size=200)
        score = expected_calibration_error(sure, rng.random(200) < sure - 0.2, seed=seed)
        covered += score.low <= 0.2 <= score.high
    low, high = wilson(covered, 150, confidence=0.999)
    assert low <= 0.95 <= high


def test_interval_holds_the_value_for_a_calibrated_model() -> None:
    """Resamples of a calibrated model all have larger errors: an interval of theirs alone would leave the value out."""
    scores = [expected_calibration_error(*_answers(seed, 300)) for seed in range(10)]
    assert all(0 <= score.low < score.value < score.high < 0.2 for score in scores)
    offset = np.mean([(score.low + score.high) / 2 - score.value for score in scores])
    assert abs(offset) < 0.1 * np.mean([score.high - score.low for score in scores])


def test_bins_add_up_to_the_error() -> None:
    """What the chart shows is what the number sums; empty bins are left out."""
    sure, right = _answers(2, 60)
    sure = sure * 0.5
    points = reliability_bins(sure, right, bins=10)
    assert len(points) == 5 and sum(point.accuracy.n for point in points) == 60
    summed = sum(point.accuracy.n * abs(point.accuracy.value - point.confidence) for point in points) / 60
    assert summed == pytest.approx(expected_calibration_error(sure, right, bins=10).value)
    for point in points:
        assert point.low <= point.confidence <= point.high
        found = round(point.accuracy.value * point.accuracy.n)
        assert (point.accuracy.low, point.accuracy.high) == wilson(found, point.accuracy.n)


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_temperature_undoes_a_scale(scale: float) -> None:
    """Labels drawn from the softmax of known logits: the scale is the temperature, and SciPy finds the same."""
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6000, 5)) * 2
    target = np.array([rng.choice(5, p=row) for row in np.exp(logits) / np.exp(logits).sum(1, keepdims=True)])

    def slow_loss(temperature: float) -> float:
        scaled = logits * scale / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(6000), target]))

    found = fit_temperature(logits * scale, target)
    assert found == pytest.approx(scale, rel=0.06)
    peer = optimize.minimize_scalar(slow_loss, bounds=(scale / 3, scale * 3), method="bounded", options={"xatol": 1e-9})
    assert found == pytest.approx(peer.x, rel=1e-5)


def test_temperature_of_huge_logits_and_of_perfect_models_is_finite() -> None:
    """exp(1000) overflows; a model that is always right wants temperature 0."""
    assert fit_temperature(np.eye(4) * 1000, np.arange(4)) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(np.eye(4) * 1000, (np.arange(4) + 1) % 4) == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_threshold_equals_a_slow_search() -> None:
    """Every confidence is tried: guards order, ties, and `>` in place of `>=`."""
    for seed in range(8):
        sure, right = _answers(seed, 300, places=1 + seed % 2)
        safe = [t for t in sure if wilson(float((~right[sure >= t]).sum()), int((sure >= t).sum()))[1] <= 0.25]
        assert abstain_threshold(sure, right, 0.25) == (min(safe) if safe else ABSTAIN_ALWAYS)


def test_threshold_guards_small_samples() -> None:
    """Three right answers of three prove nothing; 100 of 100 allow a risk of 4 %."""
    assert abstain_threshold([0.9, 0.95, 0.99], [True] * 3, 0.05) > 1
    assert abstain_threshold(np.full(100, 0.9), np.ones(100, bool), 0.04) == 0.9
    assert abstain_threshold(np.full(100, 0.9), np.ones(100, bool), 0.03) > 1


def test_threshold_keeps_its_promise_on_new_data() -> None:
    """Chosen on 500 answers of a calibrated model, true risk is above the limit in few of 200 draws."""
    broken = 0
    for seed in range(200):
        threshold = abstain_threshold(*_answers(seed, 500), 0.2)
        # A model right as often as it says, uniform confidence: the risk from t on is (1 - t) / 2.
        broken += threshold <= 1 and (1 - threshold) / 2 > 0.2
    assert broken <= 20


def _by_picture(seed: int, pictures: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Questions about a picture that are right or wrong together, as confident as they are right."""
    sure, right = _answers(seed, pictures)
    return np.repeat(sure, each), np.repeat(right, each), np.repeat(np.arange(pictures), each)


def test_interval_of_the_error_draws_pictures() -> None:
    """Twelve equal answers about each picture tell no more than one: guards an interval that draws answers."""
    sure, right, picture = _by_picture(3, 100, 12)
    once = expected_calibration_error(sure[::12], right[::12], seed=4)
    clustered = expected_calibration_error(sure, right, seed=4, clusters=picture)
    assert (clustered.value, clustered.low, clustered.high) == pytest.approx((once.value, once.low, once.high))
    assert clustered.n == 1200
    alone = expected_calibration_error(sure, right, seed=4)
    assert alone.high - alone.low < 0.5 * (clustered.high - clustered.low)
    uneven = np.concatenate([picture[:700], np.full(500, 1000)])
    with pytest.raises(InputError, match="clusters"):
        expected_calibration_error(sure, right, clusters=uneven[:-1])
    assert expected_calibration_error(sure, right, clusters=uneven).value == pytest.approx(clustered.value)


def test_threshold_of_answers_that_are_wrong_together() -> None:
    """`risk` holds where all answers about a picture are wrong together; taken for independent, they break it."""
    broken = {"clustered": 0, "independent": 0}
    for seed in range(100):
        sure, right, picture = _by_picture(seed, 100, 12)
        for name, clusters in (("clustered", picture), ("independent", None)):
            threshold = abstain_threshold(sure, right, 0.2, clusters)
            broken[name] += threshold <= 1 and (1 - threshold) / 2 > 0.2
    assert broken["clustered"] <= 10 < 25 <= broken["independent"], broken
    sure, right = _answers(5, 400)
    alone, single = (abstain_threshold(sure, right, 0.2, clusters) for clusters in (None, np.arange(400)))
    assert alone <= single <= alone + 0.02


def test_threshold_without_an_error_counts_pictures() -> None:
    """Ten pictures of ten right answers each are ten proofs, not a hundred."""
    sure, right = np.full(100, 0.9), np.ones(100, bool)
    ten = np.repeat(np.arange(10), 10)
    assert abstain_threshold(sure, right, 0.05) == 0.9
    assert abstain_threshold(sure, right, wilson(0, 10)[1] - 1e-6, ten) == ABSTAIN_ALWAYS
    assert abstain_threshold(sure, right, wilson(0, 10)[1] + 1e-6, ten) == 0.9


def test_risk_coverage_by_hand() -> None:
    """Ties are given together, and the area weighs each answer once."""
    curve = risk_coverage([0.9, 0.8, 0.8, 0.1], [True, False, True, False])
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 3, 0.5])
    assert curve.area == pytest.approx((0 + 1 / 3 + 1 / 3 + 0.5) / 4)


def test_area_tells_useful_confidence_from_noise() -> None:
    """Perfect order, reversed order, and one confidence for all, whose area is the error rate."""
    right = np.arange(100) < 70
    best, worst = risk_coverage(np.linspace(1, 0, 100), right), risk_coverage(np.linspace(0, 1, 100), right)
    constant = risk_coverage(np.full(100, 0.5), right)
    assert constant.area == pytest.approx(0.3)
    assert best.area < constant.area < worst.area
    slow = np.mean([np.mean(~right[: k + 1]) for k in range(100)])
    assert best.area == pytest.approx(slow)


@pytest.mark.parametrize(
    ("confidence", "is_right"), [([], []), ([0.5], [True, False]), ([1.5], [True]), ([np.nan], [True]), ([0.5], [0.3])]
)
def test_wrong_input_is_refused(confidence: list[float], is_right: list[float]) -> None:
    """Logits in place of probabilities would land in the last bin; NaN in none."""
    for function in (expected_calibration_error, reliability_bins, risk_coverage):
        with pytest.raises(InputError):
            function(confidence, is_right)


def test_wrong_targets_and_risks_are_refused() -> None:
    """-1 would read the last class; a risk of 5 (per cent) would accept everything."""
    for target in ([-1], [2], [0, 1], [0.5]):
        with pytest.raises(InputError):
            fit_temperature([[1.0, 2.0]], target)
    with pytest.raises(InputError):
        abstain_threshold([0.5], [True], 5)
    with pytest.raises(InputError):
        expected_calibration_error([0.5], [True], bins=0)


@pytest.mark.parametrize(("temperature", "bias"), [(0.4, 1.0), (1.0, 0.0), (5.0, -2.0)])
def test_platt_undoes_a_scale_and_a_shift(temperature: float, bias: float) -> None:
    """Events drawn by known probabilities: both numbers are found again, and scikit-learn finds the same."""
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(5)
    logit = rng.normal(size=4000) * 3 * temperature
    happened = rng.random(4000) < 1 / (1 + np.exp(-(logit / temperature + bias)))
    found = fit_platt(logit, happened)
    assert found == pytest.approx((temperature, bias), rel=0.15, abs=0.15)
    positive = happened.sum()
    target = np.where(happened, (positive + 1) / (positive + 2), 1 / (len(logit) - positive + 2))
    peer = linear.LogisticRegression(C=np.inf, tol=1e-10, max_iter=2000)
    peer.fit(np.tile(logit, 2)[:, None], np.repeat([1, 0], 4000), np.concatenate([target, 1 - target]))
    assert found == pytest.approx((1 / peer.coef_[0, 0], peer.intercept_[0]), rel=1e-3, abs=1e-3)


def test_platt_never_turns_a_logit_round_and_stays_finite() -> None:
    """A logit that says nothing, or the opposite, becomes the share of events; one that says all stays below 1."""
    rng = np.random.default_rng(6)
    happened = rng.random(2000) < 0.3
    for logit in (rng.normal(size=2000), np.where(happened, -1.0, 1.0)):
        temperature, bias = fit_platt(logit, happened)
        assert 1 / (1 + np.exp(-(logit / temperature + bias))) == pytest.approx(happened.mean(), abs=0.02)
    temperature, bias = fit_platt(np.where(happened, 9.0, -9.0), happened)
    assert 0.99 < 1 / (1 + np.exp(-(9 / temperature + bias))) < 1
    with pytest.raises(InputError, match="of 1 kinds"):
        fit_platt([1.0, 2.0], [True, True])
