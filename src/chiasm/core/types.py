"""Types shared by all rooms: Example, Batch, Tokens, Prediction.

Axis legend: n images, m texts, l tokens, d token width, h/w image height and width in pixels.
Masks say what True means: `is_real[i, j]` is True where token j of row i is not padding.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """Where an example was written, for error messages and the ledger."""

    file: str
    row: int | None = None
    """1-based line or record number within `file`; None where the file is the example."""

    def __str__(self) -> str:
        return self.file if self.row is None else f"{self.file}:{self.row}"


@dataclass(frozen=True, slots=True)
class Caption:
    """One sentence about one image. `language` is an ISO 639-1 code ("en", "zh"), or "" if unknown."""

    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image, with every answer that counts as right (the first is the usual one)."""

    text: str
    answers: tuple[str, ...]
    kind: str = ""
    """The question's type, such as "count" or "relational"; scores are also reported by kind."""
    language: str = ""


Role = Literal["system", "user", "assistant"]
IMAGE_PLACEHOLDER = "<image>"
"""Stands in the text of a turn where an image is shown; the k-th of a conversation is the example's k-th image."""

IMAGE_ID = -1
"""Token id that stands where an image is shown; the model puts the image's tokens there."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says; only the words of the assistant are learned."""

    role: Role
    text: str
    """Contains `IMAGE_PLACEHOLDER` once for each image that is shown at that place."""


def normalise_answer(text: str) -> str:
    """Normalise a text for comparison: Unicode width forms (NFKC), case, and runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@runtime_checkable
class Checkable(Protocol):
    """Ground truth of a generated example, with which a program can check a text."""

    def agrees(self, text: str) -> bool:
        """Whether a text states all facts about the example, and only these."""
        ...


@runtime_checkable
class Depictable(Protocol):
    """Ground truth of a generated example, with which a program can check an image that was drawn for it."""

    def overlap(self, image: np.ndarray) -> tuple[int, int]:
        """Objects that an image uint8 [h, w, 3] shares with the truth, and objects in either of both.

        Equal numbers mean that the image shows exactly what is true.
        """
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """One image (or other input) with its captions, questions, label and group.

    All captions and questions of an image stay in one Example, so that they can never become false
    negatives of each other, and so that an image is encoded once for many questions.
    """

    id: str
    inputs: Mapping[str, Any]
    """Input -> reference, or several as a tuple; an input that is not named, or has an empty tuple, is absent.
    `inputs["image"]` is an `ImageRef` or a tuple of them."""
    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    turns: tuple[Turn, ...] = ()
    """A conversation about the example's images; () where it has none."""
    label: str | None = None
    group: str = ""
    """Examples with equal group show the same thing (same image, same patient); "" means `id`."""
    source: Source = field(default_factory=lambda: Source("<memory>"))
    truth: Any = None
    """Machine-checkable truth of a generated example (the objects of a scene); None for real data."""
    objects: tuple[str, ...] = ()
    """Names of the annotated objects in the image, each once; () where none were annotated."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that is decoded when it is needed.

    `load()` returns uint8 [h, w, 3] RGB. `content_key()` returns a hash of the original bytes, which names
    the image in caches and finds duplicates whatever the file is called.
    """

    load: Callable[[], np.ndarray]
    content_key: Callable[[], str]
    path: str | None = None


class Tokens(NamedTuple):
    """Output of every encoder and fusion block.

    Attributes:
        values: float [n, l, d].
        is_real: bool [n, l], True where the token is not padding.
        pooled: float [n, d], one vector for the row.
        places: float [n, l, r, c], weights, with sum 1, of the image's r rows and c columns in each token; None for
            texts, and where an image's tokens are the cells themselves.
        number: int64 [n, l], which of the several values of an example (its k-th image) a token belongs to, from 0;
            None where every example has one value.
        steps: int64 [n, l, 1 + a], for a language model with positions of a axes, of an image's tokens among words: how
            many places the next token stands further on, and how far this one stands from its place on each axis; None
            where every token takes the next place.
    """

    values: Tensor
    is_real: Tensor
    pooled: Tensor
    places: Tensor | None = None
    number: Tensor | None = None
    steps: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Tokens":
        """Apply a function to every tensor that is not None."""
        return Tokens(*(None if part is None else change(part) for part in self))  # type: ignore[arg-type]

    def rows(self, index: Tensor) -> "Tokens":
        """Select (and repeat) rows: int64 [m] -> Tokens of m rows. Many questions share one image this way."""
        return self.each(lambda part: part[index])

    @staticmethod
    def joined(parts: Sequence["Tokens"]) -> "Tokens":
        """Concatenate the rows of one or more Tokens, padded to the longest row."""
        longest = max(part.values.shape[1] for part in parts)
        if any(part.values.shape[1] < longest for part in parts):
            assert all(part.places is None and part.number is None for part in parts), "rows of one value each"
            room = [longest - part.values.shape[1] for part in parts]
            parts = [
                part._replace(
                    values=torch.nn.functional.pad(part.values, (0, 0, 0, more)),
                    is_real=torch.nn.functional.pad(part.is_real, (0, more)),
                )
                for part, more in zip(parts, room, strict=True)
            ]
        columns = zip(*parts, strict=True)
        return Tokens(*(None if pieces[0] is None else torch.cat(pieces) for pieces in columns))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(part.nbytes for part in self if part is not None)


IMAGE = "image"
"""Name of the input that every example of a packaged source has."""
Encoded = Mapping[str, Tokens]
"""Encoded inputs by name, equally many rows each. An example without an input has a row without a real token."""


class Stacked(NamedTuple):
    """An input of a batch in which an example has none, one or several values.

    Attributes:
        values: [k, ...], the values of all examples, one after the other; or what a frozen tower made of them.
        row: int64 [k], the example that each value belongs to, ascending.
        rows: number of examples n, of which some may have no value.
    """

    values: Tensor | Tokens
    row: Tensor
    rows: int

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Stacked":
        """Move the values and the rows to `device`; floating values also become `dtype` when one is given."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        values = self.values.each(move) if isinstance(self.values, Tokens) else move(self.values)
        return Stacked(values, self.row.to(device), self.rows)


InputValue = Tensor | Tokens | Stacked
"""An input of n examples: a tensor with one row each, what a frozen tower made of it, or `Stacked`."""


class TextTokens(NamedTuple):
    """Padded token ids: `ids` int64 [m, l], `is_real` bool [m, l]."""

    ids: Tensor
    is_real: Tensor


@dataclass(slots=True)
class Batch:
    """Inputs of one training or evaluation step, and per task the tensors that the task collated for them.

    Attributes:
        ids: example ids, length n.
        inputs: name -> values of the n examples: images as uint8 or float [n, 3, h, w].
        group: int64 [n]; equal numbers mean the same thing is shown.
        by_task: task name -> field name -> tensor. Fields that hold several rows an image come with an
            index field (`image_index` int64 [m]) that says which image a row belongs to.
    """

    ids: list[str]
    inputs: dict[str, InputValue]
    group: Tensor
    by_task: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """Move every tensor to `device`; floating tensors also become `dtype` when one is given."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        def input_on(value: InputValue) -> InputValue:
            if isinstance(value, Stacked):
                return value.to(device, dtype)
            return value.each(move) if isinstance(value, Tokens) else move(value)

        return Batch(
            self.ids,
            {name: input_on(value) for name, value in self.inputs.items()},
            self.group.to(device),
            {task: {name: move(value) for name, value in fields.items()} for task, fields in self.by_task.items()},
        )


@dataclass(frozen=True, slots=True)
class Domain:
    """Distance of an image and its query text from the training data of a run.

    A distance of 1 is the limit that 1 % of the run's validation examples exceed; None where no limit was fitted, or
    where there is no text.
    """

    image_distance: float | None = None
    text_distance: float | None = None
    unknown_words: tuple[str, ...] = ()
    """Words of the text that training did not use, in lower case."""

    @property
    def is_outside(self) -> bool:
        """Whether the image or the text exceeds its limit."""
        return bool(self.reasons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Codes of those that exceed their limit: "image_out_of_domain", "text_out_of_domain"."""
        distances = {"image_out_of_domain": self.image_distance, "text_out_of_domain": self.text_distance}
        return tuple(name for name, distance in distances.items() if distance is not None and distance > 1)

    def as_dict(self) -> dict[str, Any]:
        """The form that `--json` and the server write."""
        return {
            "is_outside": self.is_outside,
            "image_distance": self.image_distance,
            "text_distance": self.text_distance,
            "unknown_words": list(self.unknown_words),
        }


@dataclass(frozen=True, slots=True)
class Prediction:
    """A task's answer in plain Python: the same object is scored by evaluation and sent by serving."""

    answer: str
    confidence: float
    """In [0, 1]: the probability of `answer`, calibrated where the run has fitted that."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Runner-up answers and the like, JSON-serialisable."""
    uncalibrated: float | None = None
    """The model's uncalibrated score in [0, 1]; evaluation compares it with the calibrated `confidence`."""
    domain: Domain | None = field(default=None, compare=False)
    """Distance of image and text from the training data; None where the run has no domain statistics.
    Not part of the answer: predictions that differ in it alone are equal."""
    image: np.ndarray | None = field(default=None, compare=False, repr=False)
    """uint8 [h, w, 3] RGB, what a task that draws has drawn; None of every other. `evidence` identifies it."""

    @property
    def abstain_reasons(self) -> tuple[str, ...]:
        """Reasons to abstain from the answer; () where there are none.

        "low_confidence" (below the threshold of `abstain_risk`), "image_out_of_domain", "text_out_of_domain".
        """
        low = ("low_confidence",) if self.evidence.get("abstains") else ()
        return low + (() if self.domain is None else self.domain.reasons)

    def as_dict(self) -> dict[str, Any]:
        """The fields beside the answer that `--json` and the server write: confidence, evidence, domain, reasons."""
        domain = None if self.domain is None else self.domain.as_dict()
        reasons = list(self.abstain_reasons)
        return {"confidence": self.confidence, **self.evidence, "domain": domain, "abstain_reasons": reasons}


@dataclass(frozen=True, slots=True)
class Score:
    """A measured number with its 95 % interval and its sample size."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """`{"value", "low", "high", "n"}`, the shape that `--json` writes."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
