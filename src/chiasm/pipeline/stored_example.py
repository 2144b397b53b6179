"""The image that a run folder keeps as an example, with words that suit it.

The words appear as suggestions: in the last lines of a training, in hints, and on the server's page.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.types import Example, ImageRef
from chiasm.data.image import load_image
from chiasm.data.modalities.image import images_of

STORED_TOLERANCE, STORED_TOLERANCE_BF16 = 5e-3, 5e-2
"""Tolerance for numbers in the stored answers between machines, numbers of threads and library versions; of a model
that is kept in bf16, whose products are rounded to 8 bits in another order there."""
KEPT_QUESTIONS, KEPT_OTHERS = 3, 2
CONSIDERED = 16
"""Examples among which the stored one is chosen."""
TO_TRY = "to_try"
"""Key of the words in `example.json`, beside the answers that loading compares."""


@dataclass(frozen=True, slots=True)
class StoredExample:
    """An example image with words.

    Attributes:
        png: PNG file of the image.
        questions: about the image, of different kinds where there are several.
        texts: sentences that are true of the image, one a language.
        others: sentences about other images of the same data.
        answers: the stored answers about the image, by name, with the words that they are about.
    """

    png: bytes
    questions: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, folder: Path, name: str = "example") -> "StoredExample | None":
        """Read `NAME.png` and the words in `NAME.json`; None where the folder has no such example."""
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        stored = read_json(path, "the stored example")
        try:
            png = (folder / f"{name}.png").read_bytes()
        except FileNotFoundError:
            raise InputError(f"{folder}/{name}.png is missing", "the stored image", "restore the folder") from None
        return cls.of(png, stored)

    @classmethod
    def of(cls, png: bytes, stored: dict[str, Any]) -> "StoredExample":
        """From the content of both files; a folder without words to try has those that its answers are about."""
        about = stored["words"]
        from_answers = {
            "questions": [about["question"]] if "question" in about else [],
            "texts": [about.get("text", "")],
        }
        given = {**from_answers, "others": [], **stored.get(TO_TRY, {})}
        told = {name: value for name, value in stored.items() if name != TO_TRY}
        questions, texts, others = (tuple(filter(None, given[name])) for name in ("questions", "texts", "others"))
        return cls(png, questions, texts, others, told)

    @property
    def image(self) -> ImageRef:
        """The image, decoded when it is read."""
        return ImageRef(lambda: load_image(self.png, "example.png"), lambda: hashlib.sha256(self.png).hexdigest())


def choose_example(examples: Sequence[Example]) -> Example:
    """Choose the example to store: a typical one of the first 16.

    Of those with an image and most kinds of words (captions, questions) it is the one whose first caption has the
    median length.
    """
    considered = examples[:CONSIDERED]
    considered = [example for example in considered if images_of(example)] or considered
    most = max(bool(example.captions) + bool(example.questions) for example in considered)
    fitting = [example for example in considered if bool(example.captions) + bool(example.questions) == most]
    ordered = sorted(fitting, key=lambda example: len(example.captions[0].text) if example.captions else 0)
    return ordered[len(ordered) // 2]


def words_to_try(example: Example, examples: Sequence[Example]) -> dict[str, list[str]]:
    """Words that suit an example, as `StoredExample` has them.

    Args:
        example: the one that is stored.
        examples: where sentences about other images come from.
    """
    by_kind = {question.kind: question.text for question in reversed(example.questions)}
    first = [question.text for question in example.questions[:1]]
    questions = list(dict.fromkeys([*first, *reversed(by_kind.values())]))[:KEPT_QUESTIONS]
    by_language = {caption.language: caption.text for caption in reversed(example.captions)}
    true = {caption.text for caption in example.captions}
    language = example.captions[0].language if example.captions else ""
    others = [
        caption.text
        for other in examples
        if (other.group or other.id) != (example.group or example.id)
        for caption in other.captions[:1]
        if caption.language == language and caption.text not in true
    ]
    texts = list(dict.fromkeys([*(caption.text for caption in example.captions[:1]), *reversed(by_language.values())]))
    return {"questions": questions, "texts": texts, "others": list(dict.fromkeys(others))[:KEPT_OTHERS]}


def words_about(example: Example) -> dict[str, str]:
    """Queries for a stored example: its first caption as "text", its first question as "question"."""
    words = {"text": example.captions[0].text} if example.captions else {}
    return words | ({"question": example.questions[0].text} if example.questions else {})


def check_same_answers(stored: Mapping[str, Any], now: Mapping[str, Any], folder: Path, model: nn.Module) -> None:
    """Compare a model's answers with the answers that were stored when it was saved.

    What only one of the two has is not compared: another version of the package told something else.

    Args:
        stored: name -> text or number.
        now: the same of the model that was opened.
        folder: where it is, for the error.
        model: the number format of its parameters decides the tolerance.

    Raises:
        InputError: an answer changed.
    """
    is_short = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    tolerance = STORED_TOLERANCE_BF16 if is_short else STORED_TOLERANCE
    for key in (key for key in stored if key in now):
        value = stored[key]
        if not is_same_answer(value, now[key], tolerance):
            raise InputError(
                f"{folder}: the stored example's {key} was {value!r} and is {now[key]!r} now",
                f"the same answer, numbers within {tolerance}",
                "use the library versions in the run's environment.json",
            )


def is_same_answer(stored: Any, now: Any, tolerance: float) -> bool:
    """Whether two answers agree: numbers within a tolerance, all others exactly."""
    return abs(stored - now) <= tolerance if isinstance(stored, float) else bool(stored == now)
