"""Text side of the starter: MiniLM for English, and a lazily loaded second tower for fifteen other languages.

Both towers map a sentence to the same ImageNet classes, so one index of images can be searched in any of the languages.
The script of a text and, for Latin script, its words (`data.english`) select the tower. Both towers encode an ambiguous
text; its vector is the mean of the two.

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
"""Version of `reader_of`; version 1 used the script only."""


class Reader(Enum):
    """The tower that encodes a text."""

    ENGLISH = "english"
    OTHER = "other"
    BOTH = "both"


def reader_of(text: str) -> Reader:
    """Select the tower for a text; without word lists, plain A to Z is English and anything else is not.

    Both towers encode an English sentence with an accent in it ("a photo of a pájaro").
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
    is_plain = text.isascii() or not any(letter.isalpha() and not letter.isascii() for letter in text)
    return Reader.ENGLISH if is_plain else Reader.OTHER


class OtherLanguages:
    """The second tower with its tokenizer and class vectors, each loaded at its first use.

    A command with English text only does not load the second network.

    Args:
        max_tokens: longest text.
        open_tower: tokenizer -> the tower, and the class mixture for its vectors.
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
        """Tokenizer of the second tower.

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
        """The second tower, and the class mixture for its vectors."""
        return self._open(self.tokenizer)


class PolyglotTokenizer(TextTokenizer):
    """MiniLM's ids, then the second tower's ids offset by MiniLM's vocabulary; or the ids of the selected tower only.

    Args:
        english: MiniLM's tokenizer.
        max_tokens: longest text of each.
        wrap: MiniLM's tokens around a text.
        others: second tower, for other languages.

    Attributes:
        rule: selects the tower of a text, `reader_of`; a benchmark compares it with others.
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
        return [*found, *(self.vocabulary + token for token in self.others.tokenizer.ids(text))]

    def remarks(self, text: str) -> list[str]:
        """As `TextTokenizer.remarks`, by the selected tower; for both, by the second, which covers more languages."""
        if self._reader(text) is Reader.ENGLISH:
            return super().remarks(text)
        return self.others.tokenizer.remarks(text)

    def _reader(self, text: str) -> Reader:
        """As `reader_of`; an ambiguous text counts as English if no second tower is installed."""
        reader = self.rule(text)
        return Reader.ENGLISH if reader is Reader.BOTH and not self.others.installed else reader


class PolyglotTower(nn.Module):
    """Ids by `PolyglotTokenizer` -> `pooled` [m, a + b], zero in the part of a tower that is not selected.

    The second tower is no submodule, because it is loaded lazily. The fingerprint for cached texts covers MiniLM's
    weights and the selection rule.

    Args:
        english: encodes ids below `words`.
        words: size of MiniLM's vocabulary.
        others: encodes the other ids.
    """

    rule: Tensor

    def __init__(self, english: MiniLM, words: int, others: OtherLanguages) -> None:
        super().__init__()
        self.english, self.words, self.others = english, words, others
        self.dim, self.max_tokens = english.dim + DIM, english.max_tokens
        # Like every tensor of this module, part of the fingerprint that texts are cached under.
        selection = [READING_RULE, OTHER_BELOW, ENGLISH_FROM, has_word_lists(), others.installed]
        self.register_buffer("rule", torch.tensor(selection, dtype=torch.float32))

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
    """Pooled vectors of `PolyglotTower` -> unit vectors [m, c] over the classes; the mean if both towers encoded.

    Args:
        english: class mixture of MiniLM.
        dim: width of MiniLM's vectors.
        others: second tower with its class mixture.
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
