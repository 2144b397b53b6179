"""Calibration fitted on validation, and its error measured on examples that did not fit it.

A temperature or a threshold looks too good on the examples that chose it. Where the measured split is the one that
fitted them, the calibration error, the share of answers given and their accuracy are therefore cross-fitted: the
pictures are dealt into `FOLDS` parts, and each part is judged by what the others fitted.

Axis legend: n events, c classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Prediction, Score
from chiasm.evaluate.evaluator import CHUNK, evaluate
from chiasm.evaluate.naming import TRAINED, begins_by_name
from chiasm.evaluate.outcome import Outcome, captions_with_references
from chiasm.metrics.calibration import (
    abstain_threshold,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
)
from chiasm.metrics.classic import accuracy
from chiasm.pipeline.batching import image_tensor
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import CalibratedOn, Calibration, logit_of
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval, softmax
from chiasm.tasks.vqa import VisualQuestionAnswering

FOLDS = 5
"""Parts that the pictures are dealt into for cross-fitting."""
ROUNDING = 1e-6
"""Relative distance of a confidence that `predict` computes in float32 from the one here, in float64."""
UNKNOWN = -1
"""Target of an event whose right class the model cannot name: it counts as wrong, and fits nothing."""


@dataclass(frozen=True, slots=True)
class Events:
    """What a task's confidence is the probability of, on one split.

    Args:
        score: name of the metric whose calibration error it is.
        logits: float64 [n, c] of a softmax, or [n] of single probabilities.
        target: int64 [n], the right class or `UNKNOWN`; for single probabilities 1 where the event happened.
        right: float64 [n] in [0, 1], how right each was; at least 0.5 counts as right.
        of: int64 [n], number of the picture; events of one picture are kept together.
        risk: share of wrong answers tolerated among those given; 0 gives all.
        near_from: kept in the calibration (see `Calibration.near_from`).
    """

    score: str
    logits: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    right: npt.NDArray[np.float64]
    of: npt.NDArray[np.int64]
    risk: float = 0.0
    near_from: float = 0.0

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """Bool [n], True for events that count as right."""
        return self.right >= 0.5

    def fit(self, rows: npt.NDArray[np.bool_]) -> Calibration:
        """Fit on some of the events: a temperature (Guo et al. 2017), or Platt scaling; and the threshold."""
        how = Calibration(near_from=self.near_from)
        logits, target = self.logits[rows], self.target[rows]
        if self.logits.ndim == 2:
            known = target != UNKNOWN
            if (logits[known].argmax(1) != target[known]).any():  # never wrong: the best temperature would be 0
                how = replace(how, temperature=fit_temperature(logits[known], target[known]))
        elif len(set(target.tolist())) > 1:  # of what always happens, or never, nothing can be learned
            how = replace(how, **dict(zip(("temperature", "bias"), fit_platt(logits, target == 1), strict=True)))
        if self.risk and len(target):
            sure = self.confidence(how)[rows]
            below = abstain_threshold(sure, self.is_right[rows], self.risk, self.of[rows])
            how = replace(how, abstain_below=below * (1 - ROUNDING))
        return how

    def confidence(self, how: Calibration) -> npt.NDArray[np.float64]:
        """Calibrated confidence of every event, float64 [n]."""
        if self.logits.ndim == 2:
            return softmax(self.logits / how.temperature).max(1, initial=0.0)
        return np.array([how.probability(float(logit)) for logit in self.logits])


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
    seen = evaluate(pipeline, examples)
    calibration: dict[str, Calibration] = {}
    scores: dict[str, Score] = {}
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = {}
    for task, events in _events(pipeline, examples, seen).items():
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
    """Confidence of each event by what the other parts' pictures fitted, and whether the answer is then given.

    Returns:
        float64 [n] and bool [n]; None with fewer pictures than parts.
    """
    pictures, index = np.unique(events.of, return_inverse=True)
    if len(pictures) < FOLDS:
        return None
    fold = (counter_rng("calibration folds", seed).permutation(len(pictures)) % FOLDS)[index]
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

    Where these are of other events (another language of the same pictures), such scores are left out.

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


def _events(pipeline: Pipeline, examples: Sequence[Example], seen: Outcome) -> dict[str, Events]:
    """Task -> its events, from a pass without calibration."""
    found: dict[str, Events] = {}
    for name, task in pipeline.tasks.items():
        events: Events | None = None
        if isinstance(task, VisualQuestionAnswering) and seen.answered:
            events = _answers(pipeline, task, examples, seen)
        elif isinstance(task, Matching) and seen.matched:
            happened = np.array([one.is_match for one in seen.matched], dtype=np.float64)
            pictures = np.array([one.of for one in seen.matched])
            events = _single("matching", [one.prediction for one in seen.matched], happened, pictures)
        elif isinstance(task, Captioning):
            events = _captions(seen, examples)
        elif isinstance(task, Retrieval) and seen.choices and pipeline.model.logit_scale is not None:
            scale = pipeline.model.logit_scale.exp().item()
            logits = scale * np.stack([one.similarity for one in seen.choices]).astype(np.float64)
            true = np.array([one.true for one in seen.choices])
            right = (logits.argmax(1) == true).astype(np.float64)
            by_label = begins_by_name([*pipeline.tasks.values()]) + TRAINED
            metric = next(metric for metric in seen.confidences if metric.startswith((by_label, "pick_")))
            events = Events(metric, logits, true, right, np.array([one.of for one in seen.choices]))
        if name in seen.named:
            named = seen.named[name]
            target = np.where(named.target < 0, UNKNOWN, named.target)
            right = (named.logits.argmax(1) == target).astype(np.float64)
            events = Events(TRAINED, named.logits, target, right, np.array(named.rows))
        if events is not None:
            found[name] = events
    return found


def _answers(pipeline: Pipeline, task: VisualQuestionAnswering, examples: Sequence[Example], seen: Outcome) -> Events:
    right, of = np.array([one.right for one in seen.answered]), np.array([one.of for one in seen.answered])
    risk = task.config.abstain_risk
    if task.objective != "softmax":
        predictions = [one.prediction for one in seen.answered]
        happened = (right >= 0.5).astype(np.float64)
        return replace(_single(task.primary_metric, predictions, happened, of), right=right, risk=risk)
    logits, target = _answer_logits(pipeline, task, examples)
    return Events(task.primary_metric, logits, target, right, of, risk)


def _captions(seen: Outcome, examples: Sequence[Example]) -> Events | None:
    """By the truth of each caption where it is known, else by being as near to what people wrote as the middle one."""
    judged = [one for one in seen.captioned if one.right is not None]
    if judged:
        happened = np.array([bool(one.right) for one in judged], dtype=np.float64)
        return _single(
            "caption_truth", [one.prediction for one in judged], happened, np.array([one.of for one in judged])
        )
    if "ROUGE_L" not in seen.items:
        return None
    near = seen.items["ROUGE_L"].values
    near_from = float(np.median(near))
    described = [one for one, _ in captions_with_references(seen, examples)]
    if near_from <= 0:
        return None
    events = _single(
        "caption_near",
        [one.prediction for one in described],
        (near >= near_from).astype(np.float64),
        np.array([one.of for one in described]),
    )
    return replace(events, near_from=near_from)


def _single(
    score: str, predictions: Sequence[Prediction], happened: npt.NDArray[np.float64], of: npt.NDArray[np.int64]
) -> Events:
    own = [one.confidence if one.uncalibrated is None else one.uncalibrated for one in predictions]
    logits = np.array([logit_of(one) for one in own], dtype=np.float64)
    return Events(score, logits, happened.astype(np.int64), happened, of)


def _answer_logits(
    pipeline: Pipeline, task: VisualQuestionAnswering, examples: Sequence[Example]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits and right answers of all questions, in the order in which `evaluate` answers them."""
    rows, right = [], []
    for start in range(0, len(examples), CHUNK):
        part = examples[start : start + CHUNK]
        asked = [(row, question) for row, example in enumerate(part) for question in example.questions]
        if asked:
            tokens = pipeline.encode_pixels(
                image_tensor(part, pipeline.config.model.image, pipeline.config.data.workers)
            )
            texts, of = [question.text for _, question in asked], [row for row, _ in asked]
            rows.append(task.logits(pipeline.model, pipeline.codec, tokens, texts, of).double().cpu().numpy())
            known = [pipeline.codec.answer_index(question.answers[0]) for _, question in asked]
            right += [UNKNOWN if one is None else one for one in known]
    return np.concatenate(rows), np.array(right, dtype=np.int64)
