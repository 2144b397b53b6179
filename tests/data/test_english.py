"""English is told from the other languages in Latin letters by how often each writes its words."""

import importlib.util
import math

import pytest

from chiasm.data import english
from chiasm.data.english import ENGLISH, OTHERS, UNSEEN, english_probability, is_latin, words_of

needs_lists = pytest.mark.skipif(importlib.util.find_spec("wordfreq") is None, reason="needs the extra [multilingual]")


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    lists: dict[str, dict[str, float]] = {language: {} for language in (ENGLISH, *OTHERS)}
    lists["en"] = {"a": 2e-2, "boat": 1e-4, "boot": 2e-5}
    lists["de"] = {"ein": 8e-3, "boot": 3e-5, "fluss": 3e-5}
    monkeypatch.setattr(english, "_word_lists", lambda: lists)
    return lists


def test_it_is_bayes_over_words(few_words: dict[str, dict[str, float]]) -> None:
    """A product of frequencies in plain arithmetic; half of the prior is English's, the rest is shared out."""
    for text in ("a boat", "ein Boot", "boot", "A FLUß"):
        likely = {
            language: math.prod(known.get(word, 0.0) + UNSEEN for word in text.casefold().split())
            for language, known in few_words.items()
        }
        other = sum(likely[language] for language in OTHERS) / (2 * len(OTHERS))
        assert english_probability(text) == pytest.approx(likely["en"] / 2 / (likely["en"] / 2 + other))


def test_letters_alone_decide_where_they_can(few_words: dict[str, dict[str, float]]) -> None:
    """Guards against lists that are read for nothing, and against a guess about words that no list knows."""
    assert english_probability("собака") == english_probability("a 狗") == 0
    assert english_probability("2 × 3 ☃") == english_probability("") == 1
    assert english_probability("Qzxv") == 0.5
    assert english_probability("a " * 2000 + "boat") == 1 and english_probability("ein " * 2000) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("“a dog” – 2 × ☃ …", True), ("雪", False), ("собака", False), ("Läufer", True), ("", True), ("a ß ı ł", True)],
)
def test_latin_letters(text: str, expected: bool) -> None:
    """Guards against a dash or an accent that makes a text foreign to every Latin alphabet."""
    assert is_latin(text) == expected


def test_a_word_is_composed_and_without_case() -> None:
    """Guards against an accent in two code points, or a capital, that no list has."""
    assert words_of("L'École du FLUß, 3x") == ["l", "école", "du", "fluss", "x"]


@needs_lists
@pytest.mark.parametrize(
    "text",
    [
        "ein Boot",
        "un perro",
        "un chien",
        "un cane",
        "een hond",
        "pies na śniegu",
        "um cachorro",
        "der Hund",
        "una nave",
        "perro",
    ],
)
def test_short_searches_of_other_languages(text: str) -> None:
    """Guards against the fault that this is for: two words in A to Z that were read as English."""
    assert english_probability(text) < 0.2


@needs_lists
@pytest.mark.parametrize(
    "text",
    ["a dog", "dog", "boat", "a boat", "a man on a bicycle", "two dogs in the grass", "die cast toy car", "Camel"],
)
def test_english_stays_english(text: str) -> None:
    """Guards against an English search that waits for the second tower."""
    assert english_probability(text) > 0.6
