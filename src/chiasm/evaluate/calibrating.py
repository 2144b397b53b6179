"""Fit calibration on validation, and measure its error by cross-fitting.

A temperature or a threshold scores too well on the examples that it was fitted on. If the measured split is the one of
the fit, the calibration error, the share of answers given and their accuracy are therefore cross-fitted: the examples
are split into `FOLDS` folds, and each fold is scored with the calibration that was fitted on the others.

Axis legend: n events.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Score
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.evaluate.evaluator import Report, evaluate_tasks
from chiasm.metrics.calibration import expected_calibration_error
from chiasm.metrics.classic import accuracy
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.calibration import CalibratedOn, Calibration, Events
from chiasm.tasks.scoring import Outcome

FOLDS = 5
"""Number of folds for cross-fitting."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Result of `fit_calibration`.

    Args:
        calibration: task -> fitted calibration; tasks without one are left out.
        examples: fingerprint of the examples it was fitted on.
        scores: cross-fitted scores of these examples, by the names that `evaluate` gives them.
        confidences: event -> cross-fitted confidences float64 [n], and whether the event occurred bool [n].
    """

    calibration: dict[str, Calibration]
    examples: str
    scores: dict[str, Score] = field(default_factory=dict)
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def apply(self, pipeline: Pipeline) -> "Fitted":
        """Set the pipeline's calibration and the fingerprint of its examples; returns itself."""
        pipeline.codec.calibration.clear()
        pipeline.codec.calibration.update(self.calibration)
        pipeline.codec.calibrated_on = CalibratedOn(self.examples, self.scores)
        return self


def fit_calibration(
    pipeline: Pipeline, examples: Sequence[Example], encoded: EncodedOnce | None = None, report: Report | None = None
) -> Fitted:
    """Fit calibration of confidences, and the threshold for abstaining if the config sets a risk.

    Softmax answers and labels get a temperature; soft and generated answers, matches and captions get Platt scaling.
    `metrics.certainty` defines the events.

    The pipeline is left without calibration; `Fitted.apply` gives it the new one. `encoded` is shared with other passes
    over these examples; `report` is called with (images done, images in all).
    """
    pipeline.codec.calibration.clear()
    outcomes = evaluate_tasks(pipeline, examples, report=report, is_calibrating=True, encoded=encoded)
    calibration: dict[str, Calibration] = {}
    scores: dict[str, Score] = {}
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = {}
    for task, outcome in outcomes.items():
        events = pipeline.tasks[task].calibrate(outcome)
        if events is None:
            continue
        fitted = events.fit(np.ones(len(events.of), dtype=np.bool_))
        if fitted == Calibration():
            continue
        calibration[task] = fitted
        found = cross_fitted(events, pipeline.config.seed)
        if found is not None:
            sure, is_given = found
            confidences[events.score] = sure, events.is_right
            scores |= _scores_of(events, sure, is_given, pipeline.config.seed)
    return Fitted(calibration, fingerprint(examples), scores, confidences)


def cross_fitted(events: Events, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """Confidence of each event with the calibration of the other folds, and whether the answer is given.

    Returns:
        float64 [n] and bool [n]; None with fewer images than folds.
    """
    images, index = np.unique(events.of, return_inverse=True)
    if len(images) < FOLDS:
        return None
    fold = (counter_rng("calibration folds", seed).permutation(len(images)) % FOLDS)[index]
    sure, is_given = np.zeros(len(index)), np.ones(len(index), dtype=np.bool_)
    for number in range(FOLDS):
        held = fold == number
        calibration = events.fit(~held)
        sure[held] = events.confidence(calibration)[held]
        is_given[held] = sure[held] >= calibration.abstain_below
    return sure, is_given


def fingerprint(examples: Sequence[Example]) -> str:
    """Hash of the examples' names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(example.id for example in examples)).encode()).hexdigest()


def out_of_sample(pipeline: Pipeline, examples: Sequence[Example], outcome: Outcome, fitted: Fitted | None) -> None:
    """Replace the scores that depend on calibration by cross-fitted ones, if it was fitted on these examples.

    If the events differ (another language of the same images), these scores are left out.

    Args:
        pipeline: holds the calibration and what it was fitted on.
        examples: the measured examples.
        outcome: result of the view "seen"; changed in place.
        fitted: of a run that has just been trained, for the confidences in its report.
    """
    known = pipeline.codec.calibrated_on
    if known is None or known.examples != fingerprint(examples):
        return
    before = {name: outcome.scores.pop(name) for name in [*outcome.scores] if _is_fitted(name, outcome)}
    errors = {name: cross for name, cross in known.scores.items() if name.endswith("_ECE")}
    if all(name in before and cross.n == before[name].n for name, cross in errors.items()):
        outcome.scores |= known.scores
    for name, found in (fitted.confidences if fitted else {}).items():
        if name in outcome.confidences:
            outcome.confidences[name] = found


def _is_fitted(name: str, outcome: Outcome) -> bool:
    """True if a score depends on the fit: a calibration error of fitted confidences, or a score of the threshold."""
    if name.endswith("_ECE"):
        own = f"{name.removesuffix('_ECE')}_uncalibrated_ECE"
        return not name.endswith("_uncalibrated_ECE") and own in outcome.scores
    return name == "answered_share" or name.endswith("_when_answered")


def _scores_of(
    events: Events, sure: npt.NDArray[np.float64], is_given: npt.NDArray[np.bool_], seed: int
) -> dict[str, Score]:
    name = events.score
    scores = {f"{name}_ECE": expected_calibration_error(sure, events.is_right, seed=seed, clusters=events.of)}
    if events.risk:
        scores["answered_share"] = accuracy(is_given, events.of, seed)
        if is_given.any():
            scores[f"{name}_when_answered"] = accuracy(events.right[is_given], events.of[is_given], seed)
    return scores
