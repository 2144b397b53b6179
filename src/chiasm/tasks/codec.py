"""Tokenizer, vocabularies, decoding and calibration of a run."""

from dataclasses import dataclass, field

import numpy as np

from chiasm.core.types import normalise_answer
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.decoding import DecodingConfig
from chiasm.tasks.calibration import CalibratedOn, Calibration

ANSWERS, CLASSES = "answers", "classes"
"""Names of the vocabularies: answers to questions, and classes."""


@dataclass(slots=True)
class Codec:
    """Tokenizer, vocabularies, decoding and calibration: what tasks need beside the model's weights."""

    tokenizer: TextTokenizer
    vocabularies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name (`Task.vocabularies`) -> entries in the order of the head's rows."""
    text_vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Text -> float32 [d] from a frozen text tower; filled before training and evaluation."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """Task name -> fitted parameters; a task without an entry is not calibrated."""
    calibrated_on: CalibratedOn | None = None
    """None if nothing was fitted, or for run folders of versions that did not store it."""
    _answer_index: tuple[tuple[str, ...], dict[str, int]] = field(default=((), {}))

    @property
    def chat_tokenizer(self) -> ChatTokenizer:
        """The tokenizer of a model whose text tower is a language model."""
        assert isinstance(self.tokenizer, ChatTokenizer), "a language model brings its tokenizer"
        return self.tokenizer

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer vocabulary, most frequent first."""
        return self.vocabularies.get(ANSWERS, ())

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that the model was trained on, in alphabetical order."""
        return self.vocabularies.get(CLASSES, ())

    def answer_index(self, text: str) -> int | None:
        """Row of an answer in the vocabulary, ignoring case; None if it is not in there."""
        known, index = self._answer_index
        if known is not self.answers:
            index = {}
            for number, answer in enumerate(self.answers):
                index.setdefault(normalise_answer(answer), number)
            self._answer_index = self.answers, index
        return index.get(normalise_answer(text))

    def class_index(self, label: str | None) -> int | None:
        """Row of a class in the vocabulary; None if it is not in there."""
        return self.classes.index(label) if label in self.classes else None
