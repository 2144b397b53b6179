"""Calibration errors of the split that fitted the calibration: no picture judges itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasm.core.types import Example
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.evaluate.calibrating import (
    FOLDS,
    cross_fitted,
    fingerprint,
    fit_calibration,
    out_of_sample,
)
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import measure
from chiasm.metrics.calibration import expected_calibration_error
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.calibration import UNKNOWN, Events
from chiasm.tasks.vqa import VqaConfig


def softmax_events(seed: int, pictures: int = 40, each: int = 6, classes: int = 4, risk: float = 0.0) -> Events:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(pictures * each, classes)) * 3
    target = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(1)  # a draw from the softmax at temperature 1.7
    target[:: each + 1] = UNKNOWN
    right = (logits.argmax(1) == target).astype(np.float64)
    return Events("vqa_accuracy", logits, target, right, np.repeat(np.arange(pictures), each), risk)


def single_events(seed: int, pictures: int = 40, each: int = 6, scale: float = 1.0) -> Events:
    """Events as likely as their logits times `scale` say; 0 makes logits that say nothing."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=pictures * each) * 2
    happened = (rng.random(len(logits)) < 1 / (1 + np.exp(-scale * logits))).astype(np.int64)
    return Events("matching", logits, happened, happened.astype(np.float64), np.repeat(np.arange(pictures), each))


@pytest.mark.parametrize("make", [softmax_events, single_events])
def test_no_picture_judges_itself(make) -> None:
    """The outcomes of a picture change the confidences of other pictures, and not its own nor its fold's."""
    events = make(0)
    found = cross_fitted(events, seed=3)
    assert found is not None
    own = events.of == 7
    other = replace(events, target=np.where(own, (events.target + 1) % 2, events.target))
    again = cross_fitted(other, seed=3)
    assert again is not None
    changed = found[0] != again[0]
    assert not changed[own].any() and changed.mean() == pytest.approx(1 - 1 / FOLDS, abs=0.05)


def test_folds_keep_a_picture_together_and_equal_a_slow_loop() -> None:
    """Each picture has one temperature, that of all pictures outside its fold."""
    events = softmax_events(1)
    found = cross_fitted(events, seed=0)
    assert found is not None
    parts: dict[float, set[int]] = {}
    for row, sure in enumerate(found[0]):
        temperatures = np.geomspace(0.01, 100, 4001)
        scaled = events.logits[row] / temperatures[:, None]
        shares = np.exp(scaled - scaled.max(1, keepdims=True))
        most = (shares / shares.sum(1, keepdims=True)).max(1)
        at = float(np.interp(-sure, -most, np.log(temperatures)))
        key = min(parts, key=lambda one: abs(one - at)) if parts else at
        parts.setdefault(key if parts and abs(key - at) < 0.02 else at, set()).add(int(events.of[row]))
    pictures = [number for part in parts.values() for number in part]
    assert len(parts) <= FOLDS and sorted(pictures) == list(range(40)), "a picture has one temperature"
    for part in parts.values():
        rows = np.isin(events.of, list(part))
        how = events.fit(~rows)
        if len(parts) == FOLDS:
            assert found[0][rows] == pytest.approx(events.confidence(how)[rows])


def test_what_fits_itself_looks_better_than_it_is() -> None:
    """Of confidences that say nothing, the error on the fitted pictures is too small; the cross-fitted one is not."""
    fitted, cross = [], []
    for seed in range(40):
        events = single_events(seed, pictures=12, each=4, scale=0.0)
        sure = events.confidence(events.fit(np.ones(48, dtype=bool)))
        fitted.append(expected_calibration_error(sure, events.is_right).value)
        found = cross_fitted(events, seed)
        assert found is not None
        cross.append(expected_calibration_error(found[0], events.is_right).value)
    assert np.mean(cross) > 1.15 * np.mean(fitted), (np.mean(cross), np.mean(fitted))


def test_a_model_that_is_never_wrong_gets_no_certainty_from_it() -> None:
    """The likeliest temperature of eight right answers is 0, which would call every further answer certain."""
    events = softmax_events(4)
    right = replace(events, target=events.logits.argmax(1), right=np.ones(len(events.of)))
    every = np.ones(len(events.of), dtype=bool)
    assert right.fit(every).temperature == 1.0 != events.fit(every).temperature


def test_too_few_pictures_have_no_cross_fitted_error() -> None:
    """An error of three pictures is left out, not measured where it was fitted."""
    assert cross_fitted(softmax_events(2, pictures=FOLDS - 1), seed=0) is None


@pytest.fixture(scope="module")
def measured() -> tuple[Pipeline, list[Example]]:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8), size_px=16)
    model = replace(demo.model, dim=16, image=image)
    dataset = open_dataset(demo.data, "val", 0)
    examples = [dataset.example(number) for number in range(16)]
    config = replace(demo, model=model, tasks={"vqa": VqaConfig(abstain_risk=0.95)})
    return Pipeline.build(config, examples, torch.device("cpu")), examples


def test_a_split_that_fitted_shows_cross_fitted_scores(measured: tuple[Pipeline, list[Example]]) -> None:
    """Guards against the in-sample error, share of answers, and accuracy among them; other examples keep their own."""
    pipeline, examples = measured
    fitted = fit_calibration(pipeline, examples[:12])
    fitted.apply(pipeline)
    assert {"vqa_accuracy_ECE", "answered_share"} <= set(fitted.scores)
    outcome = evaluate(pipeline, examples[:12])
    in_sample = dict(outcome.scores)
    out_of_sample(pipeline, examples[11::-1], outcome, fitted)
    assert outcome.scores["vqa_accuracy_ECE"] == fitted.scores["vqa_accuracy_ECE"] != in_sample["vqa_accuracy_ECE"]
    assert outcome.scores["vqa_accuracy"] == in_sample["vqa_accuracy"]
    assert outcome.scores["vqa_accuracy_uncalibrated_ECE"] == in_sample["vqa_accuracy_uncalibrated_ECE"]
    assert outcome.confidences["vqa_accuracy"] is fitted.confidences["vqa_accuracy"]
    other = evaluate(pipeline, examples[:13])
    before = dict(other.scores)
    out_of_sample(pipeline, examples[:13], other, None)
    assert other.scores == before and fingerprint(examples[:13]) != fingerprint(examples[:12])


def test_other_events_of_the_same_pictures_show_none(measured: tuple[Pipeline, list[Example]]) -> None:
    """The same pictures with fewer questions were partly fitted on, and have no cross-fitted score."""
    pipeline, examples = measured
    fit_calibration(pipeline, examples[:12]).apply(pipeline)
    fewer = [replace(one, questions=one.questions[:2]) for one in examples[:12]]
    outcome = evaluate(pipeline, fewer)
    out_of_sample(pipeline, fewer, outcome, None)
    assert "vqa_accuracy_ECE" not in outcome.scores and "answered_share" not in outcome.scores
    assert "vqa_accuracy" in outcome.scores and "vqa_accuracy_uncalibrated_ECE" in outcome.scores


def test_measuring_shows_the_cross_fitted_error(measured: tuple[Pipeline, list[Example]]) -> None:
    """Guards against a table of `val` with the error of the examples that fitted it, in a run and in `evaluate`."""
    pipeline, examples = measured
    fitted = fit_calibration(pipeline, examples[:12]).apply(pipeline)
    for given in (fitted, None):
        shown = measure(pipeline, examples[:12], Ledger(), "val", Console(quiet=True), given)
        assert shown.outcome.scores["vqa_accuracy_ECE"] == fitted.scores["vqa_accuracy_ECE"]
