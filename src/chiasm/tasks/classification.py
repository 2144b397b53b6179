"""Classification: name the class of an image, out of those of the training data."""

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
    """How classes are learned."""

    label_smoothing: float = 0.0
    """Share of the target given to all other classes."""
    linear_probe: bool = False
    """The head begins as the linear probe of `chiasm probe`: logistic regression on the frozen image tower's vectors,
    whose strength is chosen on a fifth of training. With train.steps and train.epochs 0 that is all that is trained."""

    def check(self, where: str) -> None:
        """Shares are shares."""
        check_share(where, "label_smoothing", self.label_smoothing, is_below_one=True)

    @property
    def trains_without_steps(self) -> bool:
        """The linear probe is fitted in closed form."""
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
        """Refuse a whole network, which has no place for another head."""
        if self.model.network:
            raise InputError(
                f"the task classification with model.network {self.model.network!r}",
                "an image tower",
                "drop model.network",
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
        """None: a class is a row of the head."""
        return []

    def head_to_fit(self, model: VisionLanguageModel) -> nn.Linear | None:
        """The head, where the config asks for the linear probe."""
        return cast(nn.Linear, model.heads[self.name]) if self.config.linear_probe else None

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`label` int64 [k] and `image_index` int64 [k] of the images that have one of the model's classes."""
        rows = [(row, codec.class_index(one.label)) for row, one in enumerate(examples) if one.label]
        known = [(row, number) for row, number in rows if number is not None]
        return {
            "label": torch.tensor([number for _, number in known], dtype=torch.long),
            "image_index": torch.tensor([row for row, _ in known], dtype=torch.long),
        }

    def count(self, batch: Batch) -> int:
        """Images whose class is known."""
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
        """Name the likeliest class for each query.

        `Query.among` are classes to choose from, all of them known to the model and the same in all queries; none
        chooses from all.

        Returns:
            Class and calibrated probability; `evidence["labels"]` has every class with "label" and "probability",
            likeliest first.
        """
        if not queries:
            return []
        assert len({one.among for one in queries}) == 1, "queries of one call choose among the same classes"
        names = list(queries[0].among) or list(codec.classes)
        columns = [codec.classes.index(name) for name in names]
        logits = self.class_logits(model, encoded, [one.row for one in queries])[:, columns]
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
        """Accuracies over the labelled examples; nothing without a text to leave out."""
        return None if context.view == "no_text" else ClassScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether a class is right."""
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
    """Scores classes; one that the model was not trained on counts as wrong.

    Args:
        task: whose classes they are.
        context: the model and the split.
    """

    def __init__(self, task: Classification, context: Context) -> None:
        super().__init__(context)
        self.task = task
        self.parts: list[Named] = []

    @torch.no_grad()
    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Name the labelled examples of a part."""
        model, codec = self.context.model, self.context.codec
        rows = [row for row, one in enumerate(part) if one.label]
        found = [codec.class_index(part[row].label) for row in rows]
        target = np.array([IGNORED if one is None else one for one in found], dtype=np.int64)
        logits = self.task.class_logits(model, encoded, rows).cpu().numpy()
        predictions = self.task.predict(model, codec, encoded, [Query(row) for row in rows])
        self.parts.append(Named([start + row for row in rows], logits, target, predictions))

    def finish(self) -> Outcome:
        """Accuracies, the commonest class beside them; seen, also their calibration."""
        outcome, seed, name = Outcome(), self.context.seed, self.task.primary_metric
        rows = np.array([row for one in self.parts for row in one.rows], dtype=np.int64)
        if not len(rows):
            return outcome
        logits = np.concatenate([one.logits for one in self.parts])
        target = np.concatenate([one.target for one in self.parts])
        predictions = [said for one in self.parts for said in one.predictions]
        outcome.named = [Named(rows.tolist(), logits, target, predictions)]
        # Classes that the model does not know share a column that is never chosen.
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
