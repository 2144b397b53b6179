"""Two text encoders behind one interface: English token ids go to MiniLM, all others to a multilingual encoder.

Both encoders' vectors are compared with the same ImageNet classes, each in its own space (`ClassMixture`), so that the
two results lie in one space. The multilingual encoder is opened when a text first needs it.

Axis legend: m texts, l tokens, a and b widths of the English and the multilingual vectors, c = 1000 classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.imagenet import ClassMixture
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.multilingual_use import DIM


class OtherEncoder(ABC):
    """The multilingual encoder and its class mixture, loaded at first use."""

    @property
    @abstractmethod
    def opened(self) -> tuple[nn.Module, ClassMixture]:
        """Encoder, and the mixture of the classes in its space; loaded at the first access."""


class LanguageRouter(nn.Module):
    """Token ids of two vocabularies -> `pooled` [m, a + b]; the part of an encoder that gets no token is zero.

    The multilingual encoder is not a submodule, because it is loaded at first use. The fingerprint of cached text
    features depends on the weights of MiniLM and on the rule that chooses the encoder.

    Args:
        english: encodes ids below `words`.
        words: size of the English vocabulary; ids from here on belong to the multilingual encoder, shifted by it.
        others: encodes the rest.
        rule: numbers that identify the tokenizer's rule; part of the fingerprint of cached features.
    """

    rule: Tensor

    def __init__(self, english: MiniLM, words: int, others: OtherEncoder, rule: Sequence[float]) -> None:
        super().__init__()
        self.english, self.words, self.others = english, words, others
        self.dim, self.max_tokens = english.dim + DIM, english.max_tokens
        self.register_buffer("rule", torch.tensor(rule, dtype=torch.float32))

    def forward(self, text: TextTokens) -> Tokens:
        """Encode; `values` is the pooled vector alone, [m, 1, a + b]."""
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
    """Rows int64 [k] with tokens of one encoder, and these tokens, left-aligned and shifted by `first`, [k, l].

    Args:
        text: tokens of both encoders, [m, l].
        mine: bool [m, l], True for tokens of this encoder, which are contiguous in a row.
        first: the encoder's first id.
    """
    rows = mine.any(1).nonzero()[:, 0]
    order = mine[rows].byte().argsort(dim=1, descending=True, stable=True)
    is_real = mine[rows].gather(1, order)
    return rows, TextTokens((text.ids[rows].gather(1, order) - first) * is_real, is_real)


class RoutedMixture(nn.Module):
    """`LanguageRouter` pooled vectors -> unit vectors [m, c] over the classes: the normalised sum of both encoders'.

    Args:
        english: the classes in MiniLM's space.
        dim: a, the width of MiniLM's vectors.
        others: the classes in the multilingual space.
    """

    def __init__(self, english: ClassMixture, dim: int, others: OtherEncoder) -> None:
        super().__init__()
        self.english, self.dim, self.others = english, dim, others

    def forward(self, pooled: Tensor) -> Tensor:
        """Mixture of the classes for pooled vectors float [m, a + b]; float32."""
        by_english, by_other = pooled[:, : self.dim].any(1), pooled[:, self.dim :].any(1)
        found = self.english(pooled[:, : self.dim]) * by_english[:, None]
        if bool(by_other.any()):
            found[by_other] += self.others.opened[1](pooled[by_other, self.dim :])
        by_both = by_english & by_other
        found[by_both] = F.normalize(found[by_both], dim=-1)
        return found
