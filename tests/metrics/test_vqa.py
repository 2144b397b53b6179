"""The VQA accuracy against the published formula over all subsets of nine people, and answers made by hand."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.classic import exact_matches
from chiasm.metrics.vqa import normalise_vqa_answer, vqa_score


def _slow_score(answer: str, people: list[str]) -> float:
    """Antol et al. 2015: min(matches / 3, 1), averaged over all sets of nine of the ten people."""
    subsets = list(combinations(people, 9))
    return float(np.mean([min(1.0, sum(text == answer for text in nine) / 3) for nine in subsets]))


@pytest.mark.parametrize("matches", range(11))
def test_ten_people_as_published(matches: int) -> None:
    """Guards the leave-one-out mean: 3 matches score 0.9, not 1."""
    people = ["red"] * matches + [f"colour {number}" for number in range(10 - matches)]
    assert vqa_score("Red.", people) == pytest.approx(_slow_score("red", people))
    assert vqa_score("red", people[::-1]) == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1][matches])


@pytest.mark.parametrize("people", [1, 2, 5])
def test_fewer_people_count_as_ten(people: int) -> None:
    """Equal to every person's answer written 10 / n times; the only answer is fully right."""
    for matches in range(people + 1):
        answers = ["yes"] * matches + [f"other {number}" for number in range(people - matches)]
        assert vqa_score("yes", answers) == pytest.approx(_slow_score("yes", answers * (10 // people)))
    assert vqa_score("yes", ["yes"]) == 1
    assert vqa_score("yes", ["yes", "no", "no"]) == pytest.approx(1 - (10 / 3) * (1 - (7 / 3) / 3) / 10)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog.", "dog"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("a man and an umbrella", "man and umbrella"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("its", "its"),
        ("10,000", "10000"),
        ("1,000-2,000", "10002000"),
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("black/white", "black white"),
        ("black, white", "black white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("(yes)", "yes"),
        ("5:30", "5:30"),
        ("what?!", "what"),
        ("man's", "man's"),
        (" new\nline\ttab ", "new line tab"),
        ("", ""),
        ("狗", "狗"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    """Each rule of the evaluation program by hand: a mark that touches a space is deleted, else it is a space."""
    assert normalise_vqa_answer(text) == normal


def test_both_sides_are_normalised() -> None:
    """People's answers have articles and capitals too."""
    assert vqa_score("2", ["Two"] * 4 + ["the two."] * 2 + ["three"] * 4) == 1
    assert vqa_score("two", ["2"] * 10) == 1


def test_wrong_input_is_refused() -> None:
    """A bare text would be taken for many people with one letter each."""
    for people in ("yes", []):
        with pytest.raises(InputError):
            vqa_score("yes", people)


def test_real_answers(real_data: Path) -> None:
    """VQA-RAD has one answer a question: its own text is fully right, and scores are 0 or 1 as exact matches."""
    file = real_data / "vqa_rad" / "derived_formats" / "vqav2_train_annotations.json"
    if not file.exists():
        pytest.skip("the real data set vqa_rad is not here (CHIASM_DATA)")
    rows = json.loads(file.read_text(encoding="utf-8"))["annotations"]
    people = [[answer["answer"] for answer in row["answers"]] for row in rows]
    assert all(vqa_score(answers[0], answers) == 1 for answers in people)
    guesses = [people[(number + 7) % len(people)][0] for number in range(len(people))]
    scores = [vqa_score(guess, answers) for guess, answers in zip(guesses, people, strict=True)]
    exact = exact_matches(guesses, people)
    assert set(scores) == {0.0, 1.0}
    # Folding marks and articles can only add matches.
    assert all(score >= is_exact for score, is_exact in zip(scores, exact, strict=True))
