"""The causal text tower against torch's encoder layers, and the properties that decoding and contrast rest on."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.types import TextTokens
from chiasm.models.checks import check_encoder
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.transformer import KeyValueCache

WORDS, LONGEST, DIM, LAYERS, HEADS = 40, 12, 16, 2, 2


@pytest.fixture
def tower() -> CausalTextEncoder:
    made = CausalTextEncoder(WORDS, LONGEST, DIM, LAYERS, HEADS).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.4)
    return made


@pytest.fixture
def text() -> TextTokens:
    ids = torch.randint(5, WORDS, (4, 9), generator=torch.Generator().manual_seed(0))
    return TextTokens(ids, torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None])


def test_the_contract_of_encoders_holds(tower: CausalTextEncoder, text: TextTokens) -> None:
    """Guards against the bugs named in `check_encoder`: padding above all, which the summary token stands behind."""
    check_encoder(tower, text)


def torch_layer(ours: nn.Module) -> nn.TransformerEncoderLayer:
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, 0.0, F.gelu, batch_first=True, norm_first=True).eval()
    own = ours.self_attention
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([own.query.weight, own.key_value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([own.query.bias, own.key_value.bias]))
    for mine, other in (
        (own.out, theirs.self_attn.out_proj), (ours.self_norm, theirs.norm1), (ours.mlp_norm, theirs.norm2),
        (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2),
    ):  # fmt: skip
        other.load_state_dict(mine.state_dict())
    return theirs


def test_tower_equals_torch(tower: CausalTextEncoder, text: TextTokens) -> None:
    """Guards against a summary token with a position, in another place, or that sees padding: a text at a time."""
    got = tower(text)
    layers = [torch_layer(block) for block in tower.blocks]
    for row, length in enumerate(text.is_real.sum(1).tolist()):
        words = tower.embedding(text.ids[row, :length]) + tower.position[:length]
        x = torch.cat([words, tower.summary[None]])[None]
        for layer in layers:
            x = layer(x, src_mask=torch.ones(length + 1, length + 1, dtype=torch.bool).triu(1))
        x = tower.norm(x)[0]
        torch.testing.assert_close(got.values[row, :length], x[:length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.pooled[row], x[length], rtol=1e-4, atol=1e-5)


def test_a_word_knows_those_before_it_and_the_summary_all(tower: CausalTextEncoder, text: TextTokens) -> None:
    """Guards against a mask turned round, words that see the summary, and a summary that misses a word."""
    embedded: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    tower.embedding.register_forward_hook(keep)
    tokens = tower(text)
    for place in range(9):
        (gradient,) = torch.autograd.grad(tokens.values[0, place].square().sum(), embedded[0], retain_graph=True)
        assert gradient[0].any(-1).tolist() == [other <= place for other in range(9)]
        (gradient,) = torch.autograd.grad(
            tokens.values[0, place].square().sum(), tower.summary, retain_graph=True, allow_unused=True
        )
        assert gradient is None or not gradient.any(), "words know nothing of the summary"
    (gradient,) = torch.autograd.grad(tokens.pooled.square().sum(), embedded[0])
    assert torch.equal(gradient.any(-1), text.is_real)


@pytest.mark.parametrize("steps", [[9], [1] * 9, [4, 1, 4]])
def test_words_alone_are_the_values(tower: CausalTextEncoder, text: TextTokens, steps: list[int]) -> None:
    """Guards against training on other states than writing has, with caches and without."""
    expected = tower(text).values
    torch.testing.assert_close(tower.words(text.ids)[text.is_real], expected[text.is_real], rtol=1e-5, atol=1e-5)
    caches, start, found = [KeyValueCache() for _ in tower.blocks], 0, []
    for step in steps:
        found.append(tower.words(text.ids[:, start : start + step], start, caches))
        start += step
    torch.testing.assert_close(torch.cat(found, 1)[text.is_real], expected[text.is_real], rtol=1e-5, atol=1e-5)


def test_dropout_works_in_training_alone(text: TextTokens) -> None:
    """Guards against a setting that reaches no block."""
    made = CausalTextEncoder(WORDS, LONGEST, DIM, LAYERS, HEADS, dropout=0.5)
    assert not torch.allclose(made(text).pooled, made(text).pooled)
    made.eval()
    torch.testing.assert_close(made(text).pooled, made(text).pooled)
