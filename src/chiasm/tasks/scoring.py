"""What a task makes of a split: its predictions, the scores with their intervals, and the items behind them.

A `Scorer` walks through a split in parts and finishes with an `Outcome`. The records (an answered question, a caption,
a judged pair, a choice) are shared, so that a report shows them whatever task made them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Encoded, Example, Prediction, Question, Score
from chiasm.metrics.certainty import calibration_errors
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec

View = Literal["seen", "shuffled", "no_picture", "no_text"]
Similarity = Callable[[Encoded, Sequence[str]], npt.NDArray[np.float32]]
"""Encoded inputs of n examples, m texts -> cosines float32 [m, n]."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer; `of` is the example's number, `right` in [0, 1]."""

    of: int
    question: Question
    prediction: Prediction
    right: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """One generated caption. `right` is None where no program can tell."""

    of: int
    prediction: Prediction
    right: bool | None


@dataclass(frozen=True, slots=True)
class Matched:
    """A sentence judged with an image; `of` is the number of the sentence's example."""

    of: int
    is_match: bool
    prediction: Prediction

    @property
    def right(self) -> tuple[int, float]:
        """The example, and whether the judgement was right."""
        return self.of, float((self.prediction.answer == "yes") == self.is_match)


@dataclass(frozen=True, slots=True)
class Choice:
    """A label, or a sentence, chosen among several for an image."""

    of: int
    true: int
    """Place of the right one."""
    prediction: Prediction
    similarity: npt.NDArray[np.float32]
    """Cosine of each, float32 [c]."""


@dataclass(frozen=True, slots=True)
class Named:
    """Classes of labelled examples.

    Attributes:
        rows: numbers of the k labelled examples.
        logits: float64 [k, c], uncalibrated.
        target: int64 [k], the right class; below 0 where the model does not know it.
        predictions: k answers, as they are served.
    """

    rows: Sequence[int]
    logits: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class Items:
    """What a metric is made of, one row an item in an order that every run over the split shares.

    `values` are outcomes [n] whose mean is the metric, or statistics [n, s] for BLEU; `clusters` are example numbers.
    """

    values: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]


@dataclass(slots=True)
class Outcome:
    """The predictions of one pass over a split, and the numbers made from them."""

    scores: dict[str, Score] = field(default_factory=dict)
    """Metric name -> score; larger is better, except for calibration errors (`*_ECE`)."""
    by_kind: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Metric name -> kind (of question, or language) -> score."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metric name -> what a constant or random answer gets."""
    items: dict[str, Items] = field(default_factory=dict)
    """Metric name -> its items, for a paired test between two runs."""
    geometry: dict[str, float] = field(default_factory=dict)
    """Alignment, uniformity and modality gap of a dual encoder; no intervals."""
    answered: list[Answered] = field(default_factory=list)
    captioned: list[Captioned] = field(default_factory=list)
    described: list[Captioned] = field(default_factory=list)
    """The captions with a reference in their language, row by row those of the items of CIDEr."""
    matched: list[Matched] = field(default_factory=list)
    """Of each sentence the pair with its own image, and with a hard one: half of them match."""
    choices: list[Choice] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    answer_logits: list[npt.NDArray[np.float64]] = field(default_factory=list)
    """Uncalibrated logits [m, a] of the answered questions, in their order; kept for calibration alone."""
    answer_targets: list[int] = field(default_factory=list)
    """Row of the right answer for each row of `answer_logits`; below 0 where the model does not know it."""
    logit_scale: float | None = None
    """Factor on the cosines of `choices` that makes logits of them; kept for calibration alone."""
    image_embeddings: npt.NDArray[np.float32] | None = None
    text_embeddings: npt.NDArray[np.float32] | None = None
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Row i of `text_embeddings`: the example it belongs to, and its words."""
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    """Event (see `metrics.certainty`) -> the model's confidence in each, and whether it happened."""

    def add_confidences(
        self,
        name: str,
        predictions: Sequence[Prediction],
        is_true: npt.ArrayLike,
        clusters: npt.ArrayLike,
        seed: int,
    ) -> None:
        """Keep the confidences in an event, with their calibration errors among the scores.

        `clusters` are the examples that the events belong to.
        """
        sure = np.array([one.confidence for one in predictions])
        self.confidences[name] = sure, np.asarray(is_true, dtype=np.bool_)
        self.scores |= calibration_errors(name, predictions, is_true, clusters, seed)

    @staticmethod
    def joined(parts: Sequence["Outcome"]) -> "Outcome":
        """The outcomes of several tasks over the same examples as one; of equal names the last counts."""
        whole = Outcome()
        for part in parts:
            for one in fields(Outcome):
                mine, more = getattr(whole, one.name), getattr(part, one.name)
                if isinstance(mine, dict):
                    mine.update(more)
                elif isinstance(mine, list):
                    mine.extend(more)
                elif more is not None:
                    setattr(whole, one.name, more)
        return whole


@dataclass(frozen=True, slots=True)
class Context:
    """What a scorer knows beside the examples that it is given.

    Attributes:
        model: in evaluation mode.
        codec: tokenizer, vocabularies and calibration.
        examples: the whole split.
        view: what is shown of each example.
        seed: of every draw.
        languages: of the data, the usual one first.
        label_prompts: sentences that stand for a class (`data.label_prompts`).
        is_calibrating: keep what calibration is fitted on.
        has_classes: another task of the run was trained to name classes.
        similarity: cosines of the run's shared space; None where no task has one.
    """

    model: VisionLanguageModel
    codec: Codec
    examples: Sequence[Example]
    view: View
    seed: int
    languages: tuple[str, ...]
    label_prompts: tuple[str, ...] = ()
    is_calibrating: bool = False
    has_classes: bool = False
    similarity: Similarity | None = None

    def text(self, words: str) -> str:
        """The words, or none in a view without texts."""
        return "" if self.view == "no_text" else words


class Scorer(ABC):
    """Scores one task on one view of a split.

    Args:
        context: the model and the split.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Predict for a part of the split.

        Args:
            start: number of the first example of the part.
            part: n examples.
            encoded: their inputs, n rows each; in a view, those of other examples or of none.
        """

    @abstractmethod
    def finish(self) -> Outcome:
        """Scores of all parts; an empty outcome where there was nothing to score."""


def scores_as_json(outcome: Outcome, blind: Mapping[View, Outcome]) -> dict[str, Mapping[str, object]]:
    """The `metrics` and `blind` sections of `evaluate --json`, kinds included; "blind" is the shuffled view."""

    def plain(one: Outcome) -> dict[str, object]:
        return {name: score.as_dict() for name, score in one.scores.items()}

    return {
        "metrics": plain(outcome),
        **{("blind" if view == "shuffled" else view): plain(one) for view, one in blind.items()},
        "baseline": dict(outcome.baseline),
        "geometry": dict(outcome.geometry),
        "by_kind": {
            name: {kind: score.as_dict() for kind, score in kinds.items()} for name, kinds in outcome.by_kind.items()
        },
    }
