"""A tokenizer that chooses between an English and a multilingual tokenizer by the language of each text.

The language is told by the letters of a text and, where these are Latin, by its words (`data.english`). A text that may
be either gets the ids of both.
"""

from abc import ABC, abstractmethod
from enum import Enum

from tokenizers import Tokenizer

from chiasm.data.english import english_probability, has_word_lists
from chiasm.data.tokenizers.wordpiece import TextTokenizer

OTHER_BELOW, ENGLISH_FROM = 0.2, 0.6
"""Probabilities of English between which both apply: 0.5, words that no list has, is among them (docs/log.md)."""
RULE_VERSION = 2
"""Version of `route_of`; 1 told languages by letters alone."""


class Route(Enum):
    """Which encoder a text goes to."""

    ENGLISH = "english"
    OTHER = "other"
    BOTH = "both"


def route_of(text: str) -> Route:
    """Which encoder a text goes to; without the lists of words, A to Z alone is English and accents are not.

    An English sentence with an accent in it ("a photo of a pájaro") goes to both.
    """
    if not has_word_lists():
        return by_letters(text)
    probability = english_probability(text)
    if probability < OTHER_BELOW:
        return Route.OTHER
    is_english = probability >= ENGLISH_FROM and by_letters(text) is Route.ENGLISH
    return Route.ENGLISH if is_english else Route.BOTH


def by_letters(text: str) -> Route:
    """English where no letter is beyond A to Z; signs and numbers of any kind may be in it."""
    is_plain = text.isascii() or not any(one.isalpha() and not one.isascii() for one in text)
    return Route.ENGLISH if is_plain else Route.OTHER


class OtherTokenizer(ABC):
    """The multilingual tokenizer, opened when it is first needed."""

    @property
    @abstractmethod
    def installed(self) -> bool:
        """Whether the package with its weights is installed."""

    @property
    @abstractmethod
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; opened at the first access.

        Raises:
            InputError: its package is not installed.
        """


class TokenizerByLanguage(TextTokenizer):
    """Ids of the English tokenizer, and those of the other one shifted by the size of the English vocabulary.

    A text with route BOTH has the English ids first, then the other ids, each with its special tokens.

    Args:
        english: the English tokenizer.
        max_tokens: longest text of each.
        wrap: English special tokens before and after a text.
        others: the multilingual tokenizer.

    Attributes:
        rule: text -> Route, `route_of` by default; a benchmark compares it with others.
    """

    def __init__(self, english: Tokenizer, max_tokens: int, wrap: tuple[str, str], others: OtherTokenizer) -> None:
        super().__init__(english, max_tokens, wrap)
        self.others, self.rule = others, route_of

    def ids(self, text: str) -> list[int]:
        """Ids of one text, special tokens included."""
        route = self._route(text)
        found = [] if route is Route.OTHER else super().ids(text)
        if route is Route.ENGLISH:
            return found
        return [*found, *(self.vocabulary + one for one in self.others.tokenizer.ids(text))]

    def remarks(self, text: str) -> list[str]:
        """As `TextTokenizer.remarks`, by the tokenizer that the text goes to; for BOTH, the multilingual one."""
        if self._route(text) is Route.ENGLISH:
            return super().remarks(text)
        return self.others.tokenizer.remarks(text)

    def rule_numbers(self) -> tuple[float, ...]:
        """All that decides the route of a text, as numbers: version, limits, and what is installed (0 or 1)."""
        numbers = (RULE_VERSION, OTHER_BELOW, ENGLISH_FROM, has_word_lists(), self.others.installed)
        return tuple(map(float, numbers))

    def _route(self, text: str) -> Route:
        """As `rule`; BOTH is English where the multilingual encoder is not installed."""
        route = self.rule(text)
        return Route.ENGLISH if route is Route.BOTH and not self.others.installed else route
