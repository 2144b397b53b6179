"""Calibration fitted on validation, and its error measured on examples that did not fit it.

A temperature or a threshold looks too good on the examples that chose it. Where the measured split is the one that
fitted them, the calibration error, the share of answers given and their accuracy are therefore cross-fitted: the
examples are dealt into `FOLDS` parts, and each part is judged by what the others fitted.

Axis legend: n events.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Score
from chiasm.evaluate.evaluator import evaluate_tasks
from chiasm.metrics.calibration import expected_calibration_error
from chiasm.metrics.classic import accuracy
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.calibration import CalibratedOn, Calibration, Events
from chiasm.tasks.scoring import Outcome

FOLDS = 5
"""Parts that the examples are dealt into for cross-fitting."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit_calibration` found.

    Args:
        calibration: task -> what was fitted; tasks of which nothing could be learned are left out.
        examples: fingerprint of the examples it was fitted on.
        scores: cross-fitted scores of these examples, by the names that `evaluate` gives them.
        confidences: event -> cross-fitted confidences float64 [n], and whether it was so bool [n].
    """

    calibration: dict[str, Calibration]
    examples: str
    scores: dict[str, Score] = field(default_factory=dict)
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def apply(self, pipeline: Pipeline) -> "Fitted":
        """Give the pipeline the calibration and the name of what it was fitted on; returns itself."""
        pipeline.codec.calibration.clear()
        pipeline.codec.calibration.update(self.calibration)
        pipeline.codec.calibrated_on = CalibratedOn(self.examples, self.scores)
        return self


def fit_calibration(pipeline: Pipeline, examples: Sequence[Example]) -> Fitted:
    """Fit what makes confidences probabilities, and the threshold for abstaining where one is asked for.

    Answers out of a softmax, and labels, get a temperature; soft and written answers, matches and captions one
    probability each, by Platt scaling. `metrics.certainty` says of which events.

    The pipeline is left without calibration; `Fitted.apply` gives it the new one.
    """
    pipeline.codec.calibration.clear()
    outcomes = evaluate_tasks(pipeline, examples, is_calibrating=True)
    calibration: dict[str, Calibration] = {}
    scores: dict[str, Score] = {}
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = {}
    for task, outcome in outcomes.items():
        events = pipeline.tasks[task].calibrate(outcome)
        if events is None:
            continue
        how = events.fit(np.ones(len(events.of), dtype=np.bool_))
        if how == Calibration():
            continue
        calibration[task] = how
        found = cross_fitted(events, pipeline.config.seed)
        if found is not None:
            sure, is_given = found
            confidences[events.score] = sure, events.is_right
            scores |= _scores_of(events, sure, is_given, pipeline.config.seed)
    return Fitted(calibration, fingerprint(examples), scores, confidences)


def cross_fitted(events: Events, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """Confidence of each event by what the other parts' images fitted, and whether the answer is then given.

    Returns:
        float64 [n] and bool [n]; None with fewer images than parts.
    """
    images, index = np.unique(events.of, return_inverse=True)
    if len(images) < FOLDS:
        return None
    fold = (counter_rng("calibration folds", seed).permutation(len(images)) % FOLDS)[index]
    sure, is_given = np.zeros(len(index)), np.ones(len(index), dtype=np.bool_)
    for number in range(FOLDS):
        held = fold == number
        how = events.fit(~held)
        sure[held] = events.confidence(how)[held]
        is_given[held] = sure[held] >= how.abstain_below
    return sure, is_given


def fingerprint(examples: Sequence[Example]) -> str:
    """Hash of the examples' names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(example.id for example in examples)).encode()).hexdigest()


def out_of_sample(pipeline: Pipeline, examples: Sequence[Example], outcome: Outcome, fitted: Fitted | None) -> None:
    """Replace what calibration decides, where these examples fitted it, by the cross-fitted scores.

    Where these are of other events (another language of the same images), such scores are left out.

    Args:
        pipeline: holds the calibration and what it was fitted on.
        examples: those measured.
        outcome: of the pass that sees; changed.
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
    """Whether a score depends on what was fitted: a calibration error of fitted confidences, or on the threshold."""
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
