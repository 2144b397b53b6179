"""The route of a text, and the ids of two tokenizers in one vocabulary."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from chiasm.data.tokenizers import by_language
from chiasm.data.tokenizers.by_language import OtherTokenizer, Route, TokenizerByLanguage, by_letters, route_of
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.data.tokenizers.wordpiece import TextTokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a dog", True), ("“a dog” – 2 × ☃ …", True), ("雪", False), ("собака", False), ("Läufer", False), ("", True)],
)
def test_letters_choose_the_route_without_word_lists(
    text: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against Russian read as English, and against a dash that makes English a foreign language."""
    monkeypatch.setattr(by_language, "has_word_lists", lambda: False)
    assert (route_of(text) is Route.ENGLISH) == (by_letters(text) is Route.ENGLISH) == expected


@pytest.mark.parametrize(
    ("probability", "text", "expected"),
    [(0.1, "a", Route.OTHER), (0.5, "a", Route.BOTH), (0.7, "a", Route.ENGLISH), (0.7, "á", Route.BOTH)],
)
def test_the_probability_chooses_the_route(
    probability: float, text: str, expected: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against limits that are swapped, and an accent in an English sentence that only MiniLM gets."""
    monkeypatch.setattr(by_language, "has_word_lists", lambda: True)
    monkeypatch.setattr(by_language, "english_probability", lambda _: probability)
    assert route_of(text) is expected


class Others(OtherTokenizer):
    """A second tokenizer, installed or not."""

    def __init__(self, tokenizer: TextTokenizer, installed: bool) -> None:
        self._tokenizer, self._installed = tokenizer, installed

    @property
    def installed(self) -> bool:
        return self._installed

    @property
    def tokenizer(self) -> TextTokenizer:
        return self._tokenizer


@pytest.mark.parametrize(
    ("route", "installed", "expected"),
    [
        (Route.ENGLISH, True, [1, 4, 3, 2]),
        (Route.OTHER, True, [5 + 1, 5 + 3, 5 + 4, 5 + 2]),
        (Route.BOTH, True, [1, 4, 3, 2, 5 + 1, 5 + 3, 5 + 4, 5 + 2]),
        (Route.BOTH, False, [1, 4, 3, 2]),
    ],
)
def test_the_other_ids_follow_the_english_vocabulary(route: Route, installed: bool, expected: list[int]) -> None:
    """Guards against ids of one tokenizer that mean a word of the other."""
    english, other = (_words(*order) for order in (("dog", "a"), ("a", "dog")))
    others = Others(PretrainedTokenizer(other, 8, ("<s>",), ("</s>",), "[PAD]"), installed)
    tokenizer = TokenizerByLanguage(english, 8, ("<s>", "</s>"), others)
    tokenizer.rule = lambda text: route
    assert tokenizer.ids("a dog") == expected


def _words(*words: str) -> Tokenizer:
    names = ["[PAD]", "<s>", "</s>", *words]
    made = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[0]))
    made.pre_tokenizer = Whitespace()
    return made
