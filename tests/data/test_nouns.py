"""Nouns by the words around them, in English and Chinese."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.data.nouns import noun_forms, plural

ENGLISH = [
    sentence
    for noun, place in [("dog", "snow"), ("man", "grass"), ("boy", "fence"), ("cat", "dish"), ("ball", "box")]
    for sentence in (
        f"A black {noun} is running in the {place}.",
        f"A small {noun} jumps over a red {place} and another {noun}.",
        f"Two brown {plural(noun)} run through the {place} near a swing.",
        f"The {noun} swings on the swing by the small {plural(place)}.",
        f"She swings the {noun}, and he swings near some {plural(noun)}.",
    )
]
CHINESE = [
    "一只狗在草地上奔跑。",
    "两只狗在玩耍。",
    "在草地上的小狗。",
    "一个男人拿着球。",
    "穿着裙子的女人。",
    "一只黑狗在玩耍。",
    "在草地上玩耍的男人。",
    "在玩耍的狗。",
    "一个女人牵着狗。",
    "拿着球的女人。",
    "一个男人踢球。",
    "穿着红色裙子的女人在草地上。",
    "穿裙子的人。",
    "狗的训练。",
    "男人的训练。",
    "在训练的狗。",
    "正训练的狗。",
    "男人在训练。",
]


def test_english() -> None:
    """Articles, adjectives and boundaries show the nouns; verbs and adjectives are none."""
    forms = noun_forms(ENGLISH, "en")
    nouns = {"dog", "man", "boy", "cat", "ball", "snow", "grass", "fence", "dish", "box", "swing"}
    assert set(forms.values()) == nouns
    assert not {"black", "small", "running", "jumps", "run", "she"} & set(forms)
    assert (forms["dogs"], forms["men"], forms["dishes"], forms["boxes"]) == ("dog", "man", "dish", "box")
    assert forms["grass"] == "grass"


def test_a_verb_is_no_plural() -> None:
    """The swing is a noun; "swings" stands where verbs stand, and is no mention of it."""
    forms = noun_forms(ENGLISH, "en")
    assert "swing" in forms and "swings" not in forms


def test_chinese() -> None:
    """Measure words, 的 and places show the nouns; what stands behind 在 alone is a verb."""
    forms = noun_forms(CHINESE, "zh", least=2)
    assert {"狗", "男人", "女人", "草地", "球", "裙子"} <= set(forms.values())
    assert not {"玩耍", "奔跑", "训练", "一", "黑狗"} & set(forms.values())


def test_colours_are_taken_off_chinese_nouns() -> None:
    """A black dog is a dog, a red skirt a skirt, where the dog and the skirt are nouns themselves."""
    forms = noun_forms([*CHINESE, "一只黑狗。", "一只黑狗。", "穿红色裙子的人。", *["穿裙子的人。"] * 3], "zh", least=2)
    assert (forms["黑狗"], forms["红色裙子"]) == ("狗", "裙子")


@given(st.sampled_from(["en", "zh"]), st.integers(1, 4), st.randoms())
def test_order_of_captions_is_nothing(language: str, times: int, random: object) -> None:
    """The same captions in another order have the same nouns, and a noun is a form of itself."""
    texts = (ENGLISH if language == "en" else CHINESE) * times
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    forms = noun_forms(texts, language)
    assert forms == noun_forms(shuffled, language)
    assert all(forms[name] == name for name in forms.values())


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("dog", "dogs"), ("box", "boxes"), ("dish", "dishes"), ("baby", "babies"), ("boy", "boys"), ("man", "men"),
        ("traffic light", "traffic lights"), ("shorts", "shorts"), ("bus", "buses"), ("grass", "grasses"),
    ],
)  # fmt: skip
def test_plural(noun: str, many: str) -> None:
    """Regular by its ending, irregular by the table, of the last word."""
    assert plural(noun) == many


def test_other_languages_are_refused() -> None:
    """The rules are for two languages."""
    with pytest.raises(InputError, match="labels or annotations"):
        noun_forms(["ein Hund"], "de")
