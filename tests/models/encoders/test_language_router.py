"""Each encoder gets its own tokens, left-aligned, and a text of both is the normalised sum of the two mixtures."""

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.imagenet import ClassMixture
from chiasm.models.encoders.language_router import LanguageRouter, OtherEncoder, RoutedMixture
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.multilingual_use import DIM

WORDS, PAD = 100, 0


class Spell(MiniLM):
    """Pooled vector of a text: sum over its tokens of id * (position + 1), in the first number, and 1 in the second."""

    def __init__(self, dim: int) -> None:
        nn.Module.__init__(self)  # none of MiniLM's weights
        self.dim, self.max_tokens = dim, 9

    def forward(self, text: TextTokens) -> Tokens:
        assert not text.ids[~text.is_real].any(), "padding has an id"
        pooled = torch.zeros(len(text.ids), self.dim)
        pooled[:, 0] = (text.ids * text.is_real * torch.arange(1, text.ids.shape[1] + 1)).sum(1)
        pooled[:, 1] = 1
        return Tokens(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


class Others(OtherEncoder):
    """The other encoder, which counts how often it is asked for."""

    def __init__(self, mixture: ClassMixture) -> None:
        self.count, self.mixture = 0, mixture

    @property
    def opened(self) -> tuple[nn.Module, ClassMixture]:
        self.count += 1
        return Spell(DIM), self.mixture


def batch(rows: list[list[int]]) -> TextTokens:
    length = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return TextTokens(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])


def spelled(ids: list[int]) -> float:
    return float(sum(one * place for place, one in enumerate(ids, 1)))


@pytest.fixture
def others() -> Others:
    torch.manual_seed(0)
    return Others(ClassMixture(nn.functional.normalize(torch.randn(7, DIM), dim=-1), top=3))


def router(others: Others) -> LanguageRouter:
    return LanguageRouter(Spell(4), WORDS, others, (2.0, 0.2))


def test_each_encoder_gets_its_own_tokens_from_the_left(others: Others) -> None:
    """Guards against rows that change places, ids that are not shifted back, and tokens that keep a gap before them."""
    rows = [[3, 8], [105, 101, 109], [7, 9, 102, 103]]
    pooled = router(others)(batch(rows)).pooled
    for row, given in zip(rows, pooled, strict=True):
        mine, theirs = [one for one in row if one < WORDS], [one - WORDS for one in row if one >= WORDS]
        assert given[:2].tolist() == [spelled(mine), float(bool(mine))]
        assert given[4:6].tolist() == [spelled(theirs), float(bool(theirs))]


def test_english_alone_does_not_open_the_other_encoder(others: Others) -> None:
    """Guards against a start that waits for weights it does not need."""
    tower, mixture = router(others), RoutedMixture(ClassMixture(torch.eye(7, 4), top=3), 4, others)
    mixture(tower(batch([[3, 8], [5]])).pooled)
    assert others.count == 0
    tower(batch([[3, 8], [105]]))
    assert others.count == 1


def test_a_text_of_both_is_the_normalised_sum(others: Others) -> None:
    """Guards against a mean of vectors that were not compared in their own space, or one that is no unit vector."""
    english = ClassMixture(nn.functional.normalize(torch.randn(7, 4), dim=-1), top=3)
    first, second = torch.randn(3, 4), torch.randn(3, DIM)
    first[1], second[0] = 0, 0
    found = RoutedMixture(english, 4, others)(torch.cat([first, second], dim=1))
    one, other = english(first), others.mixture(second)
    total: Tensor = one[2] + other[2]
    torch.testing.assert_close(found, torch.stack([one[0], other[1], total / total.square().sum().sqrt()]))


def test_the_rule_is_part_of_the_state(others: Others) -> None:
    """Guards against cached features that outlive the rule by which their encoder was chosen."""
    torch.testing.assert_close(router(others).state_dict()["rule"], torch.tensor([2.0, 0.2]))
