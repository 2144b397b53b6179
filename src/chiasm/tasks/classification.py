"""Classification: name the class of a picture, out of those of the training data."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import Batch, Example, Prediction, Tokens
from chiasm.models.config import ModelConfig
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.answer import IGNORED, answer_classification
from chiasm.tasks.base import Calibration, Codec, Named, Task, Teacher


def class_vocabulary(examples: Iterable[Example]) -> tuple[str, ...]:
    """The labels of the training examples, in alphabetical order.

    Raises:
        InputError: fewer than two.
    """
    counts = Counter(example.label for example in examples if example.label)
    if len(counts) < 2:
        found = f"one class, {next(iter(counts))!r}" if counts else "no class"
        raise InputError(f"the training data have {found}", "pictures of two or more classes", "add another class")
    return tuple(sorted(counts))


class Classification(Task):
    """A linear layer on the image tower's pooled vector, and a softmax over the classes."""

    name: ClassVar[str] = "classification"
    primary_metric: ClassVar[str] = "acc1"
    needs: ClassVar[Literal["captions", "questions", "labels"]] = "labels"
    reads_text: ClassVar[bool] = False

    def check(self, model: ModelConfig) -> None:
        """Refuse a whole network, which has no place for another head."""
        if model.network:
            raise InputError(
                f"the task classification with model.network {model.network!r}", "an image tower", "drop model.network"
            )

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`label` int64 [k] and `image_index` int64 [k] of the pictures that have one of the model's classes."""
        rows = [(row, codec.class_index(one.label)) for row, one in enumerate(examples) if one.label]
        known = [(row, number) for row, number in rows if number is not None]
        return {
            "label": torch.tensor([number for _, number in known], dtype=torch.long),
            "image_index": torch.tensor([row for row, _ in known], dtype=torch.long),
        }

    def count(self, batch: Batch) -> int:
        """Pictures whose class is known."""
        return len(batch.by_task[self.name]["label"])

    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy over the classes."""
        fields = batch.by_task[self.name]
        logits = model.name_classes(image)[fields["image_index"]]
        return answer_classification(logits, fields["label"], self.config.label_smoothing)

    @torch.no_grad()
    def named(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, examples: Sequence[Example]
    ) -> Named | None:
        """Uncalibrated logits of the labelled pictures, their classes, and the answers."""
        rows = [row for row, one in enumerate(examples) if one.label]
        found = [codec.class_index(examples[row].label) for row in rows]
        target = torch.tensor([IGNORED if one is None else one for one in found], dtype=torch.long)
        labelled = image.rows(torch.tensor(rows, dtype=torch.long, device=image.pooled.device))
        logits = model.name_classes(labelled).double().cpu().numpy()
        return Named(rows, logits, target.numpy(), self.predict(model, codec, labelled))

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, among: Sequence[str] = ()
    ) -> list[Prediction]:
        """Name the likeliest class of each picture.

        Args:
            model: with a class head.
            codec: its classes and the fitted temperature.
            image: n encoded pictures.
            among: classes to choose from, all of them known to the model; none chooses from all.

        Returns:
            Class and calibrated probability; `evidence["labels"]` has every class with "label" and "probability",
            likeliest first.
        """
        names = list(among) or list(codec.classes)
        columns = [codec.classes.index(name) for name in names]
        logits = model.name_classes(image).double()[:, columns]
        temperature = codec.calibration.get(self.name, Calibration()).temperature
        shares, own = (logits / temperature).softmax(-1), logits.softmax(-1).amax(-1).tolist()
        predictions = []
        for share, raw in zip(shares.tolist(), own, strict=True):
            order = sorted(range(len(names)), key=lambda number, share=share: -share[number])  # type: ignore[misc]
            ranked = [{"label": names[number], "probability": share[number]} for number in order]
            predictions.append(Prediction(names[order[0]], share[order[0]], {"labels": ranked}, raw))
        return predictions

    def stored_answers(self, model: VisionLanguageModel, codec: Codec, image: Tokens) -> Mapping[str, Any]:
        """The class of the stored example, and its probability."""
        (said,) = self.predict(model, codec, image)
        return {"class": said.answer, "class_confidence": said.confidence}
