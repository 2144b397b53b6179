"""Scoring of a task on a split: predictions, scores with intervals, and the items that each score averages.

A `Scorer` processes a split in parts and returns an `Outcome`. All tasks share the record types (an answered question,
a caption, a classified pair, a choice), so a report handles them alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from chiasm.core.types import Caption, Encoded, Example, Prediction, Question, Score
from chiasm.metrics.certainty import calibration_errors
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec

View = Literal["seen", "shuffled", "no_picture", "no_text"]
Similarity = Callable[[Encoded, Sequence[str]], npt.NDArray[np.float32]]
"""Encoded inputs of n examples, m texts -> cosines float32 [m, n]."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's answer; `of` is the example's index, `right` in [0, 1]."""

    of: int
    question: Question
    prediction: Prediction
    right: float


@dataclass(frozen=True, slots=True)
class Captioned:
    """One generated caption. `right` is None without ground truth."""

    of: int
    prediction: Prediction
    right: bool | None


@dataclass(frozen=True, slots=True)
class Matched:
    """A classified image-sentence pair; `of` is the index of the sentence's example."""

    of: int
    is_match: bool
    prediction: Prediction

    @property
    def right(self) -> tuple[int, float]:
        """The example's index, and 1 if the pair was classified correctly."""
        return self.of, float((self.prediction.answer == "yes") == self.is_match)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One image drawn for a caption.

    Attributes:
        of: index of the example whose truth judges the image.
        caption: what was drawn; of another example in the view "shuffled".
        prediction: the image.
        overlap: objects that image and truth share, and objects in either; None without a judge.
    """

    of: int
    caption: Caption
    prediction: Prediction
    overlap: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A label, or a sentence, chosen among several for an image."""

    of: int
    true: int
    """Index of the correct candidate."""
    prediction: Prediction
    similarity: npt.NDArray[np.float32]
    """Cosine of each candidate, float32 [c]."""


@dataclass(frozen=True, slots=True)
class Named:
    """Predicted classes of labelled examples.

    Attributes:
        rows: indices of the k labelled examples.
        logits: float64 [k, c], uncalibrated.
        target: int64 [k], the right class; below 0 if it is not in the vocabulary.
        predictions: k predictions, as served.
    """

    rows: Sequence[int]
    logits: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class Items:
    """The items that a metric averages, in an order that all runs on the split share.

    `values` are results [n] whose mean is the metric, or statistics [n, s] for BLEU; `clusters` are example indices.
    """

    values: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]


@dataclass(slots=True)
class Outcome:
    """The predictions of one pass over a split, and their scores."""

    scores: dict[str, Score] = field(default_factory=dict)
    """Metric name -> score; larger is better, except for calibration errors (`*_ECE`)."""
    by_kind: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Metric name -> kind (of question, or language) -> score."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metric name -> score of a constant or random answer."""
    items: dict[str, Items] = field(default_factory=dict)
    """Metric name -> its items, for a paired test between two runs."""
    geometry: dict[str, float] = field(default_factory=dict)
    """Alignment, uniformity and modality gap of a dual encoder, without intervals."""
    answered: list[Answered] = field(default_factory=list)
    captioned: list[Captioned] = field(default_factory=list)
    described: list[Captioned] = field(default_factory=list)
    """The captions with a reference in their language, in the order of the items of CIDEr."""
    matched: list[Matched] = field(default_factory=list)
    """For each sentence the pair with its own image and the pair with a hard negative."""
    drawn: list[Drawn] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    answer_logits: list[npt.NDArray[np.float64]] = field(default_factory=list)
    """Uncalibrated logits [m, a] of the answered questions, in order; only for calibration."""
    answer_targets: list[int] = field(default_factory=list)
    """Vocabulary row of the right answer for each row of `answer_logits`; below 0 if it is not in the vocabulary."""
    logit_scale: float | None = None
    """Factor from the cosines of `choices` to logits; only for calibration."""
    image_embeddings: npt.NDArray[np.float32] | None = None
    text_embeddings: npt.NDArray[np.float32] | None = None
    texts: list[tuple[int, str]] = field(default_factory=list)
    """For each row of `text_embeddings`: the example's index and the text."""
    confidences: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]] = field(default_factory=dict)
    """Event name (see `metrics.certainty`) -> confidences, and whether each event happened."""

    def add_confidences(
        self,
        name: str,
        predictions: Sequence[Prediction],
        is_true: npt.ArrayLike,
        clusters: npt.ArrayLike,
        seed: int,
    ) -> None:
        """Store the confidences of an event, and add their calibration errors to the scores.

        `clusters` are the indices of the examples that the events belong to.
        """
        sure = np.array([one.confidence for one in predictions])
        self.confidences[name] = sure, np.asarray(is_true, dtype=np.bool_)
        self.scores |= calibration_errors(name, predictions, is_true, clusters, seed)

    @staticmethod
    def joined(parts: Sequence["Outcome"]) -> "Outcome":
        """Merge the outcomes of several tasks over the same examples; for equal names the last one is kept."""
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
    """The context of a scorer.

    Attributes:
        model: in evaluation mode.
        codec: tokenizer, vocabularies and calibration.
        examples: the whole split.
        view: which inputs of each example the model gets.
        seed: seed of all sampling.
        languages: languages of the data, the default first.
        label_prompts: prompt templates of a class (`data.label_prompts`).
        is_calibrating: whether to keep the logits for fitting the calibration.
        has_classes: whether the run has a classification task.
        similarity: cosines of the run's shared space; None without one.
        wanted: the one metric that the caller needs, "" for all; a scorer may leave out others that take long.
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
    wanted: str = ""

    def text(self, words: str) -> str:
        """The words; "" in the view "no_text"."""
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
            start: index of the first example of the part.
            part: n examples.
            encoded: their inputs, n rows each; depending on the view, of other examples or absent.
        """

    @abstractmethod
    def finish(self) -> Outcome:
        """Scores of all parts; an empty outcome if nothing was scored."""


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
