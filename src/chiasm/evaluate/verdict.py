"""Verdict on a finished run: printed in the terminal, stored in `results.json`, shown by the report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.evaluate.comparison import item_difference
from chiasm.evaluate.measure import NO_SHARES, SplitResult
from chiasm.metrics.paired import PairedResult

FEW_STEPS = 50
"""Optimiser steps below which a run counts as too short, whatever its scores."""

Level = Literal["learned", "kept_start", "doubtful", "not_learned"]
_OPENINGS: dict[Level, str] = {
    "learned": "This run has learned",
    "doubtful": "This run may not have learned enough",
    "not_learned": "This run has not learned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Facts of training that the verdict uses.

    Attributes:
        metric: the primary metric, which chose the weights that are kept.
        steps: optimiser steps done.
        examples: training examples.
        kept_step: the step of the weights that are kept; 0 where training never improved on its start, which was kept.
        validated: (step, value of the primary metric) of each validation.
        start: name of the model that the run is measured beside, such as "starter"; "" if none.
    """

    metric: str
    steps: int
    examples: int
    kept_step: int
    validated: Sequence[tuple[int, float]]
    start: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on a run, with reasons and advice.

    Attributes:
        level: "learned"; "kept_start" where training did not improve on the model that it began from, which was saved;
            "doubtful" if there are reasons against the run; "not_learned" where it does no better than with
            other examples' images, or than chance.
        sentence: the level with its numbers, one sentence.
        reasons: reasons against the run, one sentence each.
        advice: what to do about it, one sentence each.
        metric: the primary metric.
        shuffled: its difference from the same model with images shuffled, on the same items; None where not measured.
        start: name of the model that training began from; "" if none.
        against_start: metric -> difference from that model, on the same items.
    """

    level: Level
    sentence: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    metric: str
    shuffled: PairedResult | None = None
    start: str = ""
    against_start: Mapping[str, PairedResult]

    @property
    def is_good(self) -> bool:
        """True if the run has learned and there is no reason against it."""
        return self.level == "learned" and not self.reasons

    def lines(self) -> list[str]:
        """The verdict for a terminal: the sentence, then reasons and advice, each on a line of its own."""
        return [
            self.sentence,
            *(f"  why: {reason}" for reason in self.reasons),
            *(f"  do: {step}" for step in self.advice),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The section "verdict" of `results.json` and `--json`."""
        return asdict(self)


def judge(measured: SplitResult, course: Course) -> Verdict:
    """Derive the verdict from the final measurement and the course of training.

    Args:
        measured: the final split, with its views and, where training began from another model, that model's outcome.
        course: facts of training.
    """
    score = measured.outcome.scores.get(course.metric)
    shuffled = _against_shuffled(measured, course.metric)
    against_start = _against_start(measured)
    difference = against_start.get(course.metric)
    behind = _behind_start(course, difference)
    reasons, advice = _remarks(course, difference is not None and not behind)
    level: Level = "doubtful" if reasons or behind else "learned"
    if score is None:
        level, finding = "doubtful", f"the split that was measured has no {course.metric}"
    else:
        finding = _blind_words(measured, course.metric, score, shuffled)
        level = "not_learned" if _is_blind(measured, course.metric, score, shuffled) else level
    sentence = f"{_OPENINGS[level]}: {finding}."
    if course.start and course.steps and course.kept_step == 0:
        level, reasons = "kept_start", []
        sentence = f"Training did not improve on the {course.start}, whose weights are what this run saved: {finding}."
    elif behind:
        reasons.append(behind)
    if difference is not None and difference.difference > 0 and level != "kept_start":
        advice += ["measure on more images, or give more training examples"] if behind else []
    elif behind or level == "kept_start":
        advice = [f"use the {course.start} as it is, or give more training examples"]
    return Verdict(
        level=level,
        sentence=sentence,
        reasons=tuple(reasons),
        advice=tuple(advice),
        metric=course.metric,
        shuffled=shuffled,
        start=course.start,
        against_start=against_start,
    )


def _remarks(course: Course, beats_start: bool) -> tuple[list[str], list[str]]:
    """Reasons against the course of training, and advice.

    Few examples need few steps: the first validation may stay the best in a run that beats its start.
    """
    reasons, advice = [], []
    if 0 < course.steps < FEW_STEPS:  # no step at all: a head was fitted, and not by steps
        reasons.append(f"training took {course.steps:,} steps on {course.examples:,} examples")
        advice.append(f"--set train.steps={max(200, 4 * FEW_STEPS)}")
    later = [step for step, _ in course.validated if step > course.kept_step]
    first = min((step for step, _ in course.validated if step > 0), default=0)
    if not beats_start and len(later) > 1 and 0 < course.kept_step <= first:
        reasons.append(
            f"the weights that are kept are those of step {course.kept_step}: "
            f"none of the {len(later)} later validations was better"
        )
        advice.append("give more training examples, or another learning rate (--set train.lr=0 chooses one)")
    return reasons, advice


def _against_shuffled(measured: SplitResult, metric: str) -> PairedResult | None:
    blind = measured.blind.get("shuffled")
    if blind is None or metric not in measured.outcome.items or metric not in blind.items:
        return None
    try:
        return item_difference(metric, measured.outcome.items[metric], blind.items[metric])
    except InputError:  # the views were scored on other items, as hard pairs are
        return None


def _against_start(measured: SplitResult) -> dict[str, PairedResult]:
    start = measured.start
    if start is None:
        return {}
    own = measured.outcome.items
    return {name: item_difference(name, own[name], start.items[name]) for name in own if name in start.items}


def _behind_start(course: Course, difference: PairedResult | None) -> str:
    """Reason against a run that is not significantly better than the model that it started from; else ""."""
    if difference is None or difference.low > 0:
        return ""
    value, low, high = (
        _number(course.metric, end, has_sign=True) for end in (difference.difference, difference.low, difference.high)
    )
    return (
        f"it is not shown to be better than the {course.start}: {course.metric} differs by {value} "
        f"(95 % interval {low} to {high})"
    )


def _is_blind(measured: SplitResult, metric: str, score: Score, shuffled: PairedResult | None) -> bool:
    """True if the score does not depend on the images: the interval of the difference includes 0.

    Without a shuffled score: the interval of the score includes chance.
    """
    if shuffled is not None:
        return shuffled.low <= 0
    chance = measured.outcome.baseline.get(metric)
    return chance is not None and score.low <= chance


def _blind_words(measured: SplitResult, metric: str, score: Score, shuffled: PairedResult | None) -> str:
    finding = f"{metric} {_number(metric, score.value)}"
    if shuffled is not None:
        low, high = _number(metric, shuffled.low, has_sign=True), _number(metric, shuffled.high, has_sign=True)
        others = f"{_number(metric, score.value - shuffled.difference)} with the images shuffled"
        return f"{finding}, {others} (95 % interval of the difference {low} to {high})"
    chance = measured.outcome.baseline.get(metric)
    return finding if chance is None else f"{finding}, where chance reaches {_number(metric, chance)}"


def _number(metric: str, value: float, has_sign: bool = False) -> str:
    sign = "+" if has_sign else ""
    return f"{value:{sign}.3f}" if metric in NO_SHARES else f"{100 * value:{sign}.1f} %"
