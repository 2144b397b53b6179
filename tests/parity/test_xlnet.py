"""The two streams against a loop over tokens, torch's own causal layers, and what transformers' XLNet can see."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.types import TextTokens
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder
from chiasm.models.transformer import Block
from chiasm.objectives.permutation import draw_order, visible

WORDS, LONGEST, DIM, HEADS, LAYERS = 20, 8, 12, 3, 2
LENGTHS = [6, 4, 2, 5]


@pytest.fixture
def encoder() -> TwoStreamTextEncoder:
    """Random norms and biases too: with ones and zeros a lost one would not be seen."""
    made = TwoStreamTextEncoder(WORDS, LONGEST, DIM, LAYERS, HEADS).double().eval()
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return made


@pytest.fixture
def text() -> TextTokens:
    ids = torch.randint(0, WORDS, (4, 6), generator=torch.Generator().manual_seed(9))
    return TextTokens(ids, torch.arange(6) < torch.tensor(LENGTHS)[:, None])


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def norm(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + layer.eps) * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * one * (1 + math.erf(one / math.sqrt(2))) for one in x.tolist()])


def slow_block(block: Block, own: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """One token `own` that looks at a list of tokens, one head after the other."""
    attention = block.self_attention
    query = linear(attention.query, norm(block.self_norm, own))
    pairs = [linear(attention.key_value, norm(block.self_norm, other)) for other in others]
    width, mixed = DIM // HEADS, []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = [math.exp(float(query[part] @ pair[:DIM][part]) / math.sqrt(width)) for pair in pairs]
        mixed.append(sum(s / sum(scores) * pair[DIM:][part] for s, pair in zip(scores, pairs, strict=True)))
    own = own + linear(attention.out, np.concatenate(mixed))
    return own + linear(block.mlp[2], gelu(linear(block.mlp[0], norm(block.mlp_norm, own))))


def slow_streams(encoder: TwoStreamTextEncoder, ids: list[int], places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Equations 3 and 4 written out for one text without padding: walk along the order, remember what was met."""
    embedding, position = encoder.embedding.weight.detach().numpy(), encoder.position.detach().numpy()
    h = {i: embedding[word] + position[i] for i, word in enumerate(ids)}
    g = {i: encoder.query_token.detach().numpy() + position[i] for i in range(len(ids))}
    for block in encoder.blocks:
        new_h, new_g, met = {}, {}, []
        for i in sorted(range(len(ids)), key=places.__getitem__):
            new_g[i] = slow_block(block, g[i], met or [h[0]])
            met.append(h[i])
            new_h[i] = slow_block(block, h[i], met)
        h, g = new_h, new_g
    return tuple(np.stack([norm(encoder.norm, one[i]) for i in range(len(ids))]) for one in (h, g))


def test_streams_equal_a_loop_over_tokens(encoder: TwoStreamTextEncoder, text: TextTokens) -> None:
    """Guards against <= for <, contents of the wrong layer, unshared weights, and a query without its position."""
    torch.manual_seed(2)
    order = draw_order(text.is_real)
    content, query = encoder.two_stream(text, order)
    for row, length in enumerate(LENGTHS):
        h, g = slow_streams(encoder, text.ids[row, :length].tolist(), order[row, :length].tolist())
        torch.testing.assert_close(content.values[row, :length], torch.from_numpy(h), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(query.values[row, :length], torch.from_numpy(g), rtol=1e-9, atol=1e-9)


def test_reading_order_equals_a_causal_transformer(encoder: TwoStreamTextEncoder, text: TextTokens) -> None:
    """Guards against an order that is turned round: from left to right, the content stream is torch's causal one."""
    x = encoder.embedding(text.ids) + encoder.position[:6]
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, 0.0, F.gelu, batch_first=True, norm_first=True)
        layer = layer.double().eval()
        ours = block.self_attention
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        for mine, other in (
            (ours.out, layer.self_attn.out_proj), (block.self_norm, layer.norm1), (block.mlp_norm, layer.norm2),
            (block.mlp[0], layer.linear1), (block.mlp[2], layer.linear2),
        ):  # fmt: skip
            other.load_state_dict(mine.state_dict())
        x = layer(x, src_mask=~torch.ones(6, 6, dtype=torch.bool).tril())
    content, _ = encoder.two_stream(text, torch.arange(6).expand(4, -1))
    torch.testing.assert_close(content.values[text.is_real], encoder.norm(x)[text.is_real], rtol=1e-9, atol=1e-9)


def influence(output: Tensor, words: Tensor) -> Tensor:
    """[l, l]: True where output q of one text has a gradient with respect to word k."""
    rows = []
    for position in range(output.shape[1]):
        weight = torch.linspace(0.5, 2, output.shape[2], dtype=output.dtype)
        (gradient,) = torch.autograd.grad((output[0, position] * weight).sum(), words, retain_graph=True)
        rows.append(gradient[0].abs().sum(-1) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(4))
def test_words_that_matter_are_those_of_xlnet(encoder: TwoStreamTextEncoder, seed: int) -> None:
    """Guards against another rule than the published one: which word moves which prediction, in transformers' XLNet.

    Values cannot be compared, since XLNet's positions are relative. The start token is left out: nothing is before it,
    and what it then looks at is a choice of each program.
    """
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    torch.manual_seed(seed)
    config = transformers.XLNetConfig(
        vocab_size=WORDS, d_model=DIM, n_layer=LAYERS, n_head=HEADS, d_inner=24, dropout=0.0, summary_last_dropout=0.0
    )
    xlnet, encoder = transformers.XLNetModel(config).eval(), encoder.float()  # XLNet knows float32 alone
    everything = torch.ones(1, 6, dtype=torch.bool)
    order = draw_order(everything)
    content_allowed, query_allowed = visible(order, everything)
    words = torch.randn(1, 6, DIM, requires_grad=True)
    # XLNet's mask is 1 where looking is forbidden; its content stream sees itself whatever the mask says.
    forbidden = (order[:, None, :] >= order[:, :, None]).float()
    theirs = xlnet(inputs_embeds=words, perm_mask=forbidden, target_mapping=torch.eye(6)[None])
    their_content = xlnet(inputs_embeds=words, perm_mask=forbidden)

    encoder.embedding.register_forward_hook(lambda module, given, made: words)
    content, query = encoder.two_stream(TextTokens(torch.zeros(1, 6, dtype=torch.long), everything), order)
    expected = influence(theirs.last_hidden_state, words)
    assert torch.equal(influence(query.values, words)[1:], expected[1:])
    assert torch.equal(expected[1:], query_allowed[0, 1:])
    expected = influence(their_content.last_hidden_state, words)
    assert torch.equal(influence(content.values, words), expected)
    assert torch.equal(expected, content_allowed[0])
