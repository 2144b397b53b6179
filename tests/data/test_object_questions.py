"""Questions after objects for training: their wording, their balance, and what is never asked."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Example, Question, Source
from chiasm.data.files import FilesConfig, open_files
from chiasm.data.object_questions import KIND, object_question, with_object_questions
from chiasm.data.objects import found_objects

NAMES = ("dog", "cat", "car", "boat", "pizza", "umbrella", "horse")
LIKELY = 6
"""How much oftener the first name stands than the last."""


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("dog", "Is there a dog in the image?"),
        ("umbrella", "Is there an umbrella in the image?"),
        ("orange hat", "Is there an orange hat in the image?"),
        ("uniform", "Is there a uniform in the image?"),
        ("unicycle", "Is there a unicycle in the image?"),
        ("hourglass", "Is there an hourglass in the image?"),
        ("onion", "Is there an onion in the image?"),
        ("snow", "Is there snow in the image?"),
        ("sunglasses", "Are there sunglasses in the image?"),
        ("people", "Are there people in the image?"),
        ("bus", "Is there a bus in the image?"),
        ("dress", "Is there a dress in the image?"),
    ],
)
def test_english_questions(name: str, question: str) -> None:
    """Article by sound; mass nouns and plurals without one."""
    assert object_question(name) == question


def test_other_questions() -> None:
    """Chinese needs no article; other languages have no wording."""
    assert object_question("狗", "zh") == "图中有狗吗？"
    with pytest.raises(InputError, match="en, zh"):
        object_question("Hund", "de")


def examples(count: int = 60) -> list[Example]:
    """Images with one to three annotated objects, the first names far more often."""
    weighted = [name for place, name in enumerate(NAMES) for _ in range(max(LIKELY - place, 1))]
    return [
        Example(
            id=str(number),
            inputs={},
            source=Source("made", number),
            objects=tuple(sorted({weighted[number * step % len(weighted)] for step in (1, 5, 7)})),
            questions=(Question("How many?", ("2",)),),
        )
        for number in range(count)
    ]


def test_answers_are_right_and_balanced() -> None:
    """Yes where the image has the object; each object as often absent as present, and no question twice."""
    given = examples()
    yes, no = Counter[str](), Counter[str]()
    for before, after in zip(given, with_object_questions(given, 4), strict=True):
        assert after.questions[: len(before.questions)] == before.questions
        asked = after.questions[len(before.questions) :]
        assert replace(after, questions=before.questions) == before
        assert all(one.kind == KIND for one in asked)
        assert len({one.text for one in asked}) == len(asked) <= 4
        for one in asked:
            name = next(name for name in NAMES if object_question(name) == one.text)
            assert one.answers == (("yes",) if name in before.objects else ("no",))
            (yes if name in before.objects else no)[name] += 1
    assert sum(yes.values()) > 90
    assert yes == no


def test_related_objects_are_not_asked_for_as_absent() -> None:
    """A man is a person: captions that say one leave the other open."""
    said = ["a man with a dog", "a person on a horse", "a car on a road", "a cat", "a woman in a boat"] * 6
    given = [
        Example(id=str(number), inputs={}, source=Source("made", number), captions=(Caption(text, "en"),))
        for number, text in enumerate(said)
    ]
    found = found_objects(given)
    for own, after in zip(found.by_image, with_object_questions(given, 6), strict=True):
        related = {object_question(name) for name in found.vocabulary.with_related(own) - own}
        assert not related & {one.text for one in after.questions}


def test_chinese_captions_are_asked_about_in_chinese() -> None:
    """Question, answer and language."""
    said = ["一只狗在雪地里奔跑", "一辆汽车停在路边", "一匹马在草地上", "一只猫在椅子上"] * 5
    given = [
        Example(id=str(number), inputs={}, source=Source("made", number), captions=(Caption(text, "zh"),))
        for number, text in enumerate(said)
    ]
    asked = [one for after in with_object_questions(given, 2) for one in after.questions]
    assert {one.answers for one in asked} == {("有",), ("没有",)}
    assert all(one.language == "zh" and one.text.startswith("图中有") for one in asked)


def test_an_odd_number_is_refused() -> None:
    """Half are positive."""
    with pytest.raises(InputError, match="an even number"):
        FilesConfig(path="x", object_questions=3).check()


def test_data_without_objects_get_none_and_are_told_so(tmp_path: Path) -> None:
    """The recipe of a language model asks by default, and German captions have no wording."""
    lines = []
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\tEin Hund läuft über die Wiese Nummer {number}\tde")
    (tmp_path / "table.tsv").write_text("image\tcaption\tlanguage\n" + "\n".join(lines) + "\n", encoding="utf-8")
    config = FilesConfig(path=str(tmp_path), languages=("de",), object_questions=2)
    found, ledger = open_files(config, "train")
    assert found and not any(one.questions for one in found)
    assert any("data.object_questions=2 asks nothing: captions in" in text for text in ledger.advice), ledger.advice
