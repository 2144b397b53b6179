"""What evaluation hands on: every prediction of a pass over a split, and the numbers made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Example, Prediction, Question, Score
from chiasm.metrics.certainty import calibration_errors
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Named

View = Literal["seen", "shuffled", "no_picture", "no_text"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer; `of` is the example's number, `right` in [0, 1]."""

    of: int
    question: Question
    prediction: Prediction
    right: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """One generated caption. `right` is None where no one can tell by machine."""

    of: int
    prediction: Prediction
    right: bool | None


@dataclass(frozen=True, slots=True)
class Matched:
    """A sentence judged with a picture; `of` is the number of the sentence's example."""

    of: int
    is_match: bool
    prediction: Prediction

    @property
    def right(self) -> tuple[int, float]:
        """The example, and whether it was told right."""
        return self.of, float((self.prediction.answer == "yes") == self.is_match)


@dataclass(frozen=True, slots=True)
class Choice:
    """A label, or a sentence, chosen among several for a picture."""

    of: int
    true: int
    """Place of the right one."""
    prediction: Prediction
    similarity: npt.NDArray[np.float32]
    """Cosine of each, float32 [c]."""


@dataclass(frozen=True, slots=True)
class Items:
    """What a metric is made of, one row an item in an order that every run over the split shares.

    `values` are outcomes [n] whose mean is the metric, or statistics [n, s] for BLEU; `clusters` are example numbers.
    """

    values: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]


@dataclass(slots=True)
class Outcome:
    """All predictions of one pass over a split, and the numbers made from them."""

    scores: dict[str, Score] = field(default_factory=dict)
    """Metric name -> score; larger is better, but for calibration errors (`*_ECE`)."""
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
    matched: list[Matched] = field(default_factory=list)
    """Of each sentence the pair with its own picture, and with a hard one: half of them match."""
    choices: list[Choice] = field(default_factory=list)
    named: dict[str, Named] = field(default_factory=dict)
    """Task -> what it says of the classes of all labelled pictures; `rows` are numbers of examples."""
    image_embeddings: np.ndarray | None = None
    text_embeddings: np.ndarray | None = None
    texts: list[tuple[int, str]] = field(default_factory=list)
    """Row i of `text_embeddings`: the example it belongs to, and its words."""
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    """Event (see `metrics.certainty`) -> how sure the model was of each, and whether it was so."""

    def add_confidences(
        self,
        name: str,
        predictions: Sequence[Prediction],
        is_true: npt.ArrayLike,
        clusters: npt.ArrayLike,
        seed: int,
    ) -> None:
        """Keep how sure the model was of an event, with its calibration errors among the scores.

        `clusters` are the examples that the events belong to.
        """
        sure = np.array([one.confidence for one in predictions])
        self.confidences[name] = sure, np.asarray(is_true, dtype=np.bool_)
        self.scores |= calibration_errors(name, predictions, is_true, clusters, seed)


@dataclass(slots=True)
class Pass:
    """A view of the split while it is walked through."""

    pipeline: Pipeline
    examples: Sequence[Example]
    view: View
    outcome: Outcome = field(default_factory=Outcome)
    vectors: list[np.ndarray] = field(default_factory=list)
    named: dict[str, list[tuple[int, Named]]] = field(default_factory=dict)
    """Task -> for each part the number of its first example, and what the task says of it."""
    paired: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Metric name -> (example, outcome) of tasks scored on pairs and hidden words."""

    def text(self, words: str) -> str:
        """The words, or none."""
        return "" if self.view == "no_text" else words

    def add(self, metric: str, rows: Sequence[tuple[int, float]]) -> None:
        """Note more outcomes of a metric."""
        self.paired.setdefault(metric, []).extend(rows)


def captions_with_references(outcome: Outcome, examples: Sequence[Example]) -> list[tuple[Captioned, list[str]]]:
    """Captions with what people wrote in their language; those of which nobody wrote any are left out."""
    known = [
        [text.text for text in examples[one.of].captions if text.language == one.prediction.evidence["language"]]
        for one in outcome.captioned
    ]
    return [(one, texts) for one, texts in zip(outcome.captioned, known, strict=True) if texts]


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
