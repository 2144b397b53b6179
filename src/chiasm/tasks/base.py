"""What a task is: one file that says how an example becomes batch fields, a loss, and a prediction.

Evaluation and serving both call `predict`, so a served answer is the evaluated answer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from chiasm.core.distributed import sum_over_processes
from chiasm.core.types import Batch, Example, Prediction, Score, Tokens, normalise_answer
from chiasm.data.files import LABEL_GROUP
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.vision_language import VisionLanguageModel

MOST_LOGIT = 16.0
"""Largest logit that calibration tells from certainty: float32 rounds the probability of a larger one to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """How much a task counts."""

    weight: float = 1.0
    """Factor of the task's loss in the sum."""
    captions_per_picture: int = 1
    """Captions of a picture that take part in a step, drawn anew each epoch; all of them are positives."""
    objective: str = ""
    """Which loss, where the task has several: retrieval "softmax" (CLIP), "sigmoid" (SigLIP) or "additive"; vqa
    "softmax", "soft" (several answers weighed) or "generate" (written word by word). "" is the first of them."""
    negatives: Literal["hard", "random"] = "hard"
    """Wrong pairs of the task "matching": drawn by similarity, or evenly."""
    mask_share: float = 0.15
    """Share of words that masked language modelling hides (Devlin et al. 2019)."""
    word_patch_weight: float = 0.0
    """Weight of word-patch alignment within the task "matching" (ViLT: 0.1)."""
    hard_negatives: float = 0.0
    """Share, in [0, 1], of captions that the task "retrieval" also shows with an attribute, the count, the relation or
    the order swapped by rule, for pictures not to find (NegCLIP); above 0 `evaluate` adds caption_swap_accuracy."""
    text_teacher: float = 0.0
    """Share, in [0, 1], of the loss of "retrieval" that draws a new text tower to where the run of `init_from` puts the
    same words, or what it puts for the other captions of their picture (Reimers and Gurevych 2020)."""
    distil: float = 0.0
    """Share of the moving average's soft targets (ALBEF: 0.4); needs train.ema_decay above 0."""
    label_smoothing: float = 0.0
    """Share of the target given to all other words or answers."""
    linear_probe: bool = False
    """The head of the task "classification" begins as the linear probe of `chiasm probe`: logistic regression on the
    frozen image tower's vectors, whose strength is chosen on a fifth of training. With train.steps and train.epochs 0
    that is all that is trained."""
    abstain_risk: float = 0.0
    """Share of wrong answers that is tolerated among those given; a threshold for abstaining is fitted to it on
    validation. 0 never abstains."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a task's confidence a probability, fitted on validation after training."""

    temperature: float = 1.0
    """Divisor of the logits (Guo et al. 2017, section 4.2)."""
    abstain_below: float = 0.0
    """Confidence under which the model says that it does not know; 0 always answers."""
    bias: float = 0.0
    """Added after the division, where a single probability is calibrated (Platt 1999)."""
    near_from: float = 0.0
    """ROUGE_L from which on a caption counts as near to what people wrote: the median of validation's captions. 0 where
    the truth of a caption is known, or nothing was fitted."""

    def probability(self, logit: float) -> float:
        """Platt scaling: the logistic function of logit / temperature + bias."""
        scaled = logit / self.temperature + self.bias
        return 1 / (1 + math.exp(-scaled)) if scaled > 0 else math.exp(scaled) / (1 + math.exp(scaled))


@dataclass(frozen=True, slots=True)
class CalibratedOn:
    """What a calibration was fitted on, so that nobody takes its error there for a measured one."""

    examples: str = ""
    """Hash of the examples' names (`evaluate.calibrating.fingerprint`)."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Cross-fitted scores of these examples, by name."""


def logit_of(probability: float) -> float:
    """ln(p / (1 - p)), of at most `MOST_LOGIT` in size."""
    if probability <= 0 or probability >= 1:
        return math.copysign(MOST_LOGIT, probability - 0.5)
    return max(-MOST_LOGIT, min(MOST_LOGIT, math.log(probability) - math.log1p(-probability)))


@dataclass(frozen=True, slots=True)
class Named:
    """What a model says of the classes of some pictures.

    Attributes:
        rows: k places of labelled pictures among those that were looked at.
        logits: float64 [k, c], uncalibrated.
        target: int64 [k], the right class; below 0 where the model does not know it.
        predictions: k answers, as they are served.
    """

    rows: Sequence[int]
    logits: np.ndarray
    target: np.ndarray
    predictions: Sequence[Prediction]


@dataclass(slots=True)
class Codec:
    """Between words and numbers: the tokenizer, the answers the model may give, and how it writes and doubts."""

    tokenizer: TextTokenizer
    answers: tuple[str, ...] = ()
    """The answer vocabulary, most frequent first."""
    classes: tuple[str, ...] = ()
    """Classes that the model was trained to name, in alphabetical order."""
    text_vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Text -> float32 [d] from a frozen text tower; filled before training and evaluation."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """Task name -> what was fitted; a task without entry has neither temperature, bias nor threshold."""
    calibrated_on: CalibratedOn | None = None
    """None where nothing was fitted, and for run folders of versions that did not keep it."""
    _answer_index: dict[str, int] = field(default_factory=dict)

    def answer_index(self, text: str) -> int | None:
        """Place of an answer in the vocabulary, however it is capitalised; None where the model cannot give it."""
        if not self._answer_index:
            for number, answer in enumerate(self.answers):
                self._answer_index.setdefault(normalise_answer(answer), number)
        return self._answer_index.get(normalise_answer(text))

    def class_index(self, label: str | None) -> int | None:
        """Place of a class among those of the model; None where it was not trained on it."""
        return self.classes.index(label) if label in self.classes else None


@dataclass(frozen=True, slots=True)
class Teacher:
    """The moving average of the model, and the batch's pictures as it encodes them; no gradient reaches either."""

    model: VisionLanguageModel
    image: Tokens


class Task(ABC):
    """One problem. A task is stateless: everything learned is in the model, everything counted in the codec."""

    name: ClassVar[str]
    primary_metric: ClassVar[str]
    objectives: ClassVar[tuple[str, ...]] = ()
    """Words that `TaskConfig.objective` may take, the usual one first; () where there is no choice."""
    needs: ClassVar[Literal["captions", "questions", "labels"]] = "captions"
    """What of an example the task learns from and is measured on; a label counts as a caption where
    `data.label_prompts` make one of it."""

    reads_text: ClassVar[bool] = True
    """Whether a text is part of what `predict` is given; captioning writes its own."""

    def __init__(self, config: TaskConfig, model: ModelConfig) -> None:
        self.config, self.model = config, model

    @property
    def objective(self) -> str:
        """The chosen objective, or the usual one."""
        return self.config.objective or (self.objectives[0] if self.objectives else "")

    def is_fed(self, example: Example) -> bool:
        """Whether an example has what the task `needs`."""
        given = {"captions": example.captions, "questions": example.questions, "labels": example.label}
        return bool(given[self.needs])

    def is_measurable(self, example: Example) -> bool:
        """Whether the primary metric can be measured on an example: captions must be written, not made of a label."""
        return self.is_fed(example) and not (self.needs == "captions" and example.group.startswith(LABEL_GROUP))

    def check(self, model: ModelConfig) -> None:  # noqa: B027  most tasks fit every model
        """Refuse a model that the task cannot work with, before anything is trained.

        Raises:
            InputError: says which key does not fit.
        """

    def named(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, examples: Sequence[Example]
    ) -> Named | None:
        """What the task says of the classes of pictures, for scores; None for tasks that name none."""
        return None

    def stored_answers(self, model: VisionLanguageModel, codec: Codec, image: Tokens) -> Mapping[str, Any]:
        """What the task says of a picture alone, kept with a run and compared when it is opened."""
        return {}

    @abstractmethod
    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """Return this task's training fields for the pictures of a batch, in their order."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """Number of terms of the loss of a batch: words, questions, captions; 0 where it has nothing of the task.

        Parts of a step count by it (`train.accumulate`). A task that draws its terms, such as hidden words, returns the
        number of what it draws from.
        """

    def loss(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None = None
    ) -> dict[str, Tensor]:
        """Return named terms with the total under "loss", from pictures encoded once for all tasks.

        Where no process finds anything of the task in its batch, the loss is a zero with a zero gradient.

        Args:
            model: what is trained.
            image: the batch's pictures.
            batch: the batch of this process.
            teacher: there where a task of the run distils.
        """
        if not sum_over_processes([self.count(batch)])[0]:
            return {"loss": image.pooled.float().sum() * 0}
        return self._terms(model, image, batch, teacher)

    @abstractmethod
    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """`loss`, where at least one process has something of the task.

        The contract is that of `core.distributed`: the same calls in every process, also in one with nothing of its
        own, whose empty rows go through the same modules; means over the terms of all processes.
        """
