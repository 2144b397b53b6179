"""The image that a run folder keeps as an example, with words that suit it.

The words are used wherever a reader is shown what to try: the last lines of a training, hints, the server's page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.types import Example

STORED_TOLERANCE = 5e-3
"""How far the stored answers' numbers may move between machines and library versions."""
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
    """

    png: bytes
    questions: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

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
        words = stored["words"]
        asked = {"questions": [words["question"]] if "question" in words else [], "texts": [words.get("text", "")]}
        given = {**asked, "others": [], **stored.get(TO_TRY, {})}
        return cls(png, *(tuple(filter(None, given[name])) for name in ("questions", "texts", "others")))


def choose_example(examples: Sequence[Example]) -> Example:
    """Choose the example to store: a typical one of the first 16.

    Of those with most kinds of words (captions, questions) it is the one whose first caption has the median length.
    """
    considered = examples[:CONSIDERED]
    most = max(bool(one.captions) + bool(one.questions) for one in considered)
    fitting = [one for one in considered if bool(one.captions) + bool(one.questions) == most]
    ordered = sorted(fitting, key=lambda one: len(one.captions[0].text) if one.captions else 0)
    return ordered[len(ordered) // 2]


def words_to_try(example: Example, examples: Sequence[Example]) -> dict[str, list[str]]:
    """Words that suit an example, as `StoredExample` has them.

    Args:
        example: the one that is stored.
        examples: where sentences about other images come from.
    """
    by_kind = {one.kind: one.text for one in reversed(example.questions)}
    first = [one.text for one in example.questions[:1]]
    questions = list(dict.fromkeys([*first, *reversed(by_kind.values())]))[:KEPT_QUESTIONS]
    by_language = {one.language: one.text for one in reversed(example.captions)}
    true = {one.text for one in example.captions}
    language = example.captions[0].language if example.captions else ""
    others = [
        one.text
        for other in examples
        if (other.group or other.id) != (example.group or example.id)
        for one in other.captions[:1]
        if one.language == language and one.text not in true
    ]
    texts = list(dict.fromkeys([*(one.text for one in example.captions[:1]), *reversed(by_language.values())]))
    return {"questions": questions, "texts": texts, "others": list(dict.fromkeys(others))[:KEPT_OTHERS]}


def words_about(example: Example) -> dict[str, str]:
    """What a stored example is asked: its first caption as "text", its first question as "question"."""
    words = {"text": example.captions[0].text} if example.captions else {}
    return words | ({"question": example.questions[0].text} if example.questions else {})


def check_same_answers(stored: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Compare what a model answers with what it answered when it was saved.

    Raises:
        InputError: an answer changed.
    """
    for key, value in stored.items():
        same = abs(value - now[key]) <= STORED_TOLERANCE if isinstance(value, float) else value == now[key]
        if not same:
            raise InputError(
                f"{folder}: the stored example's {key} was {value!r} and is {now[key]!r} now",
                f"the same answer, numbers within {STORED_TOLERANCE}",
                "use the library versions in the run's environment.json",
            )
