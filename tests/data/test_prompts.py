"""Sentences for classes: packaged ones in two languages, words that stand for them, and labels put into them."""

import pytest

from chiasm.core.errors import InputError
from chiasm.data.prompts import PROMPT_SETS, expanded, filled, prompts_for
from chiasm.data.script import language_of


def test_the_packaged_sentences_are_what_they_say() -> None:
    """Guards against a sentence without a place for the label, one that stands twice, and one of the other language."""
    assert set(PROMPT_SETS) == {"photos_en", "photos_zh", "drawings_en", "drawings_zh"}
    for name, prompts in PROMPT_SETS.items():
        assert len(set(prompts)) == len(prompts) >= 6
        for prompt in prompts:
            assert prompt.count("{label}") == 1
            assert prompt == "{label}" or language_of(prompt) == name[-2:]


def test_words_are_expanded_and_mixed_with_sentences() -> None:
    """Guards against a word that is taken for a sentence, and a sentence that counts twice."""
    own = "my {label}!"
    assert expanded([own, "photos_zh", own]) == (own, *PROMPT_SETS["photos_zh"])
    with pytest.raises(InputError, match="did you mean 'photos_en'"):
        expanded(["photo_en"])
    with pytest.raises(InputError, match="photos_en, photos_zh"):
        expanded(["a photo of a dog"])


def test_labels_choose_the_language() -> None:
    """Guards against Chinese names in English sentences, and English ones in Chinese."""
    own = ("my {label}!", "我的{label}", "{label}")
    assert prompts_for(["dog", "cat"], own) == ("my {label}!", "{label}")
    assert prompts_for(["狗", "cat"], own) == ("我的{label}", "{label}")
    assert prompts_for(["狗"], ("my {label}!",)) == PROMPT_SETS["photos_zh"]
    assert prompts_for(["dog"], ("photos_zh",)) == PROMPT_SETS["photos_en"]


@pytest.mark.parametrize(
    ("prompt", "label", "sentence"),
    [
        ("a photo of a {label}.", "polar_bear", "a photo of a polar bear."),
        ("a photo of a {label}.", "airplane", "a photo of an airplane."),
        ("a {label} far off", "Owl", "an Owl far off"),
        ("a {label} far off", "dog", "a dog far off"),
        ("the {label}", "owl", "the owl"),
        ("{label}的照片", "飞机", "飞机的照片"),
    ],
)
def test_labels_are_put_into_sentences(prompt: str, label: str, sentence: str) -> None:
    """Guards against "a airplane", and underscores in what a text tower reads."""
    assert filled(prompt, label) == sentence
