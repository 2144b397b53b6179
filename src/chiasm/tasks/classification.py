"""Classification: predict the class of an image among the classes of the training data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction
from chiasm.metrics.classic import class_scores
from chiasm.models.heads import HeadSpec, PooledClasses
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.answer import IGNORED, answer_classification
from chiasm.tasks.base import Needs, Query, Task, TaskConfig, Teacher, check_share
from chiasm.tasks.calibration import UNKNOWN, Calibration, Events
from chiasm.tasks.codec import CLASSES, Codec
from chiasm.tasks.scoring import Context, Items, Named, Outcome, Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationConfig(TaskConfig):
    """Config of the classification task."""

    label_smoothing: float = 0.0
    """Probability mass of the target spread over all other classes."""
    linear_probe: bool = False
    """Initialise the head with the linear probe of `chiasm probe`: logistic regression on the features of the frozen
    image tower, with the weight decay chosen on a fifth of the training split. With train.steps and train.epochs 0
    nothing else is trained."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "label_smoothing", self.label_smoothing, is_below_one=True)

    @property
    def trains_without_steps(self) -> bool:
        """True for the linear probe, which is fitted before the first step."""
        return self.linear_probe


def class_vocabulary(examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels of the training examples, in alphabetical order.

    Raises:
        InputError: fewer than two.
    """
    counts = Counter(example.label for example in examples if example.label)
    if len(counts) < 2:
        found = f"one class, {next(iter(counts))!r}" if counts else "no class"
        raise InputError(f"the training data have {found}", "images of two or more classes", "add another class")
    return tuple(sorted(counts))


class Classification(Task[ClassificationConfig]):
    """A linear layer on the image tower's pooled vector, and a softmax over the classes."""

    name: ClassVar[str] = "classification"
    primary_metric: ClassVar[str] = "acc1"
    Config: ClassVar[type[TaskConfig]] = ClassificationConfig
    needs: ClassVar[Needs] = "labels"
    reads_text: ClassVar[bool] = False
    vocabularies: ClassVar[Mapping[str, str]] = {CLASSES: ""}
    head_in_format_1: ClassVar[Mapping[str, str]] = {"class_head.": ""}

    def check(self) -> None:
        """Reject a pre-trained whole network, which takes no further head."""
        if self.model.network:
            raise InputError(
                f"the task classification with model.network {self.model.network!r}",
                "an image tower",
                "remove model.network",
            )

    def vocabulary(self, examples: Sequence[Example], stated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """The labels of the training examples.

        Raises:
            InputError: fewer than two.
        """
        return {CLASSES: class_vocabulary(examples)}

    def head(self, codec: Codec) -> HeadSpec:
        """A linear layer on the image tower's pooled vector."""
        return PooledClasses(len(codec.classes))

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """No texts: a class is a row of the head."""
        return []

    def head_to_fit(self, model: VisionLanguageModel) -> nn.Linear | None:
        """The head, if `linear_probe` is set."""
        return cast(nn.Linear, model.heads[self.name]) if self.config.linear_probe else None

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`label` int64 [k] and `image_index` int64 [k] of the images whose class is in the vocabulary."""
        rows = [(row, codec.class_index(one.label)) for row, one in enumerate(examples) if one.label]
        known = [(row, number) for row, number in rows if number is not None]
        return {
            "label": torch.tensor([number for _, number in known], dtype=torch.long),
            "image_index": torch.tensor([row for row, _ in known], dtype=torch.long),
        }

    def count(self, batch: Batch) -> int:
        """Number of images whose class is in the vocabulary."""
        return len(batch.by_task[self.name]["label"])

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy over the classes."""
        fields = batch.by_task[self.name]
        logits = model.logits(self.name, encoded[IMAGE].pooled)[fields["image_index"]]
        return answer_classification(logits, fields["label"], self.config.label_smoothing)

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Predict the most probable class for each query.

        `Query.among` are the classes to choose from: a subset of the vocabulary, the same in all queries; empty means
        all classes.

        Returns:
            Class and calibrated probability; `evidence["labels"]` has every class with "label" and "probability",
            most probable first.
        """
        if not queries:
            return []
        assert len({query.among for query in queries}) == 1, "queries of one call choose among the same classes"
        logits = self.class_logits(model, encoded, [query.row for query in queries])
        return self.predictions(logits, codec, queries[0].among)

    def predictions(self, logits: Tensor, codec: Codec, among: tuple[str, ...] = ()) -> list[Prediction]:
        """Predictions from `class_logits` [k, c]; arguments and results as in `predict`."""
        names = list(among) or list(codec.classes)
        logits = logits[:, [codec.classes.index(name) for name in names]]
        temperature = codec.calibration.get(self.name, Calibration()).temperature
        shares, own = (logits / temperature).softmax(-1), logits.softmax(-1).amax(-1).tolist()
        predictions = []
        for share, raw in zip(shares.tolist(), own, strict=True):
            order = sorted(range(len(names)), key=lambda number, share=share: -share[number])  # type: ignore[misc]
            ranked = [{"label": names[number], "probability": share[number]} for number in order]
            predictions.append(Prediction(names[order[0]], share[order[0]], {"labels": ranked}, raw))
        return predictions

    def class_logits(self, model: VisionLanguageModel, encoded: Encoded, rows: Sequence[int]) -> Tensor:
        """Uncalibrated logits float64 [k, c] of some rows."""
        pooled = encoded[IMAGE].pooled
        return model.logits(self.name, pooled[torch.tensor(rows, dtype=torch.long, device=pooled.device)]).double()

    def scorer(self, context: Context) -> Scorer | None:
        """Accuracies over the labelled examples; None in the view "no_text", since the task has no text."""
        return None if context.view == "no_text" else ClassScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether the predicted class is right."""
        if not outcome.named:
            return None
        (named,) = outcome.named
        target = np.where(named.target < 0, UNKNOWN, named.target)
        right = (named.logits.argmax(1) == target).astype(np.float64)
        return Events(self.primary_metric, named.logits, target, right, np.array(named.rows))

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The class of the stored example, and its probability."""
        (named,) = self.predict(model, codec, encoded, [Query(0)])
        return {"class": named.answer, "class_confidence": named.confidence}


class ClassScorer(Scorer):
    """Scores classes; an example of a class that is not in the vocabulary counts as wrong.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: Classification, context: Context) -> None:
        super().__init__(context)
        self.task = task
        self.parts: list[Named] = []

    @torch.no_grad()
    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Predict the classes of the labelled examples of a part."""
        model, codec = self.context.model, self.context.codec
        rows = [row for row, one in enumerate(part) if one.label]
        found = [codec.class_index(part[row].label) for row in rows]
        target = np.array([IGNORED if one is None else one for one in found], dtype=np.int64)
        logits = self.task.class_logits(model, encoded, rows)
        predictions = self.task.predictions(logits, codec)
        self.parts.append(Named([start + row for row in rows], logits.cpu().numpy(), target, predictions))

    def finish(self) -> Outcome:
        """Accuracies and the baseline of the most frequent class; in the view "seen" also calibration."""
        outcome, seed, name = Outcome(), self.context.seed, self.task.primary_metric
        rows = np.array([row for one in self.parts for row in one.rows], dtype=np.int64)
        if not len(rows):
            return outcome
        logits = np.concatenate([one.logits for one in self.parts])
        target = np.concatenate([one.target for one in self.parts])
        predictions = [prediction for one in self.parts for prediction in one.predictions]
        outcome.named = [Named(rows.tolist(), logits, target, predictions)]
        # Classes outside the vocabulary share a column that is never predicted.
        never = np.full((len(rows), int((target < 0).any())), logits.min() - 1)
        with_others = np.concatenate([logits, never], axis=1)
        scores, baseline = class_scores(with_others, np.where(target < 0, logits.shape[1], target), seed)
        outcome.scores |= scores
        outcome.baseline |= baseline
        right = logits.argmax(1) == target
        outcome.items[name] = Items(right.astype(np.float64), rows)
        if self.context.view == "seen":
            outcome.add_confidences(name, predictions, right, rows, seed)
        return outcome
