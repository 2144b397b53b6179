"""What a task is: one file that says how an example becomes batch fields, a loss, and a prediction.

Evaluation and serving both call `predict`, so a served answer is the evaluated answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor

from chiasm.core.run_config import RunConfig, TaskConfig
from chiasm.core.types import Batch, Example, Tokens
from chiasm.data.text import TextTokenizer
from chiasm.models.vision_language import VisionLanguageModel


@dataclass(slots=True)
class Codec:
    """Between words and numbers: the tokenizer, the answers the model may give, and a frozen text tower's vectors."""

    tokenizer: TextTokenizer
    answers: tuple[str, ...] = ()
    """The answer vocabulary, most frequent first."""
    text_vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Text -> float32 [d] from a frozen text tower; filled before training and evaluation."""
    _answer_index: dict[str, int] = field(default_factory=dict)

    def answer_index(self, text: str) -> int | None:
        """Place of an answer in the vocabulary; None where the model cannot give it."""
        if not self._answer_index:
            self._answer_index = {answer: number for number, answer in enumerate(self.answers)}
        return self._answer_index.get(text)


class Task(ABC):
    """One problem. A task is stateless: everything learned is in the model, everything counted in the codec."""

    name: ClassVar[str]
    primary_metric: ClassVar[str]

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @abstractmethod
    def collate(self, examples: Sequence[Example], codec: Codec, run: RunConfig, epoch: int) -> dict[str, Tensor]:
        """Return this task's training fields for the pictures of a batch, in their order."""

    @abstractmethod
    def loss(self, model: VisionLanguageModel, image: Tokens, batch: Batch) -> dict[str, Tensor]:
        """Return named terms with the total under "loss", from pictures encoded once for all tasks."""
