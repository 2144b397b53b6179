"""Our transformer against torch's, with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.models import transformer
from chiasm.models.transformer import (
    Attention,
    Block,
    KeyValueCache,
    attend,
    causal,
    init_weights,
    masked_mean,
    may_look_at,
)

ROWS, QUERIES, KEYS, DIM, HEADS = 3, 5, 7, 12, 3


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lengths_mask(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def randomize(module: nn.Module) -> nn.Module:
    """Random norms and biases too: with ones and zeros a lost one would not be seen."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=seed) * 0.4)
    return module.eval()


MASKS: dict[str, Tensor | None] = {
    "none": None,
    "padding": lengths_mask([7, 2, 4], KEYS)[:, None, None, :],
    "causal": torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(2)[None, None],
    "both": lengths_mask([7, 3, 4], KEYS)[:, None, None, :] & torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(2),
}


@pytest.mark.parametrize("name", sorted(MASKS))
def test_attention_as_products_equals_the_fused_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a missing scale, a mask turned round, and a softmax over the wrong axis; gradients too."""
    found = []
    for shortest in (0, 128):
        monkeypatch.setattr(transformer, "SHORT_TOKENS", shortest)
        shapes = (QUERIES, KEYS, KEYS)
        leaves = [numbers(ROWS, HEADS, n, 4, seed=s).requires_grad_() for s, n in enumerate(shapes)]
        mixed = attend(*leaves, MASKS[name])
        mixed.square().sum().backward()
        found.append([mixed, *(leaf.grad for leaf in leaves)])
        fused = F.scaled_dot_product_attention(*leaves, attn_mask=MASKS[name])
        torch.testing.assert_close(mixed, fused, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_long_contexts_take_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a score matrix of a page of tokens: above the bound the kernel is called, below it is not."""
    calls: list[int] = []
    kernel = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        calls.append(key.shape[2])
        return kernel(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(transformer.F, "scaled_dot_product_attention", watched)
    for length in (transformer.SHORT_TOKENS, transformer.SHORT_TOKENS + 1):
        attend(*(numbers(1, 1, length, 2, seed=s) for s in range(3)), None)
    assert calls == [transformer.SHORT_TOKENS + 1]


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())


@pytest.mark.parametrize("is_cross", [False, True])
def test_attention_equals_torch(is_cross: bool) -> None:
    """Guards against swapped keys and values, heads split along the wrong axis, and a lost bias."""
    ours = randomize(Attention(DIM, HEADS))
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval()
    copy_attention(ours, theirs)
    x = numbers(ROWS, QUERIES, DIM)
    context = numbers(ROWS, KEYS, DIM, seed=1) if is_cross else None
    is_real = lengths_mask([5, 2, 4], KEYS if is_cross else QUERIES)
    got = ours(x, context, may_look_at(is_real))
    source = x if context is None else context
    expected, _ = theirs(x, source, source, key_padding_mask=~is_real)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_attention_to_a_wider_context_equals_torch() -> None:
    """Guards against keys and values projected from the queries' width."""
    ours = randomize(Attention(DIM, HEADS, context_dim=8))
    theirs = nn.MultiheadAttention(DIM, HEADS, kdim=8, vdim=8, batch_first=True).eval()
    with torch.no_grad():
        key, value = ours.key_value.weight.chunk(2)
        for target, weight in ((theirs.q_proj_weight, ours.query.weight), (theirs.k_proj_weight, key)):
            target.copy_(weight)
        theirs.v_proj_weight.copy_(value)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, context = numbers(ROWS, QUERIES, DIM), numbers(ROWS, KEYS, 8, seed=1)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "padding", "causal"])
def test_block_equals_torch(mask: str) -> None:
    """Guards against post-norm, another activation, and a lost residual branch."""
    ours = randomize(Block(DIM, HEADS, mlp_ratio=3.0))
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, 3 * DIM, 0.0, F.gelu, batch_first=True, norm_first=True).eval()
    copy_attention(ours.self_attention, theirs.self_attn)
    for mine, other in (
        (ours.self_norm, theirs.norm1), (ours.mlp_norm, theirs.norm2),
        (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2),
    ):  # fmt: skip
        other.load_state_dict(mine.state_dict())
    x, is_real = numbers(ROWS, QUERIES, DIM), lengths_mask([5, 2, 4], QUERIES)
    allowed = {"none": None, "padding": may_look_at(is_real), "causal": causal(QUERIES, x.device)}[mask]
    expected = theirs(
        x,
        src_mask=~torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril() if mask == "causal" else None,
        src_key_padding_mask=~is_real if mask == "padding" else None,
    )
    seen = is_real if mask == "padding" else torch.ones_like(is_real)
    torch.testing.assert_close(ours(x, allowed)[seen], expected[seen], rtol=1e-5, atol=1e-5)


def test_block_with_context_equals_torch() -> None:
    """Guards against the order self-attention, cross-attention, MLP, and a norm shared by two branches."""
    ours = randomize(Block(DIM, HEADS, context_dim=DIM))
    theirs = nn.TransformerDecoderLayer(DIM, HEADS, 4 * DIM, 0.0, F.gelu, batch_first=True, norm_first=True).eval()
    assert ours.cross_attention is not None and ours.cross_norm is not None
    copy_attention(ours.self_attention, theirs.self_attn)
    copy_attention(ours.cross_attention, theirs.multihead_attn)
    for mine, other in (
        (ours.self_norm, theirs.norm1), (ours.cross_norm, theirs.norm2), (ours.mlp_norm, theirs.norm3),
        (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2),
    ):  # fmt: skip
        other.load_state_dict(mine.state_dict())
    x, context = numbers(ROWS, QUERIES, DIM), numbers(ROWS, KEYS, DIM, seed=1)
    is_real = lengths_mask([7, 1, 4], KEYS)
    got = ours(x, causal(QUERIES, x.device), context, may_look_at(is_real))
    expected = theirs(
        x, context, tgt_mask=~torch.ones(QUERIES, QUERIES, dtype=torch.bool).tril(), memory_key_padding_mask=~is_real
    )
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_context_index_equals_repeated_rows() -> None:
    """Guards against questions that look at another picture; gradients to the shared rows are summed."""
    block = randomize(Block(DIM, HEADS, context_dim=8))
    index = torch.tensor([1, 0, 0])
    x, is_real = numbers(ROWS, QUERIES, DIM), lengths_mask([7, 3], KEYS)
    found = []
    for is_indexed in (True, False):
        context = numbers(2, KEYS, 8, seed=1).requires_grad_()
        allowed = may_look_at(is_real[index])
        if is_indexed:
            out = block(x, context=context, context_allowed=allowed, context_index=index)
        else:
            out = block(x, context=context[index], context_allowed=allowed)
        out.square().sum().backward()
        found.append([out, context.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("steps", [[1, 1, 1, 1, 1], [3, 1, 1]])
def test_a_cache_equals_a_causal_mask(steps: list[int]) -> None:
    """Guards against a cache that forgets, repeats or reorders keys: the newest token sees all before it."""
    attention = randomize(Attention(DIM, HEADS))
    x = numbers(ROWS, QUERIES, DIM)
    expected = attention(x, allowed=causal(QUERIES, x.device))
    cache, start = KeyValueCache(), 0
    for step in steps:
        got = attention(x[:, start : start + step], cache=cache)
        start += step
        torch.testing.assert_close(got[:, -1], expected[:, start - 1], rtol=1e-5, atol=1e-5)


def test_masked_mean_equals_a_loop() -> None:
    """Guards against padding in the sum or in the count; a row without any real token is zeros, not NaN."""
    values, is_real = numbers(4, 5, 3), lengths_mask([5, 1, 3, 0], 5)
    got = masked_mean(values, is_real)
    for row, length in enumerate([5, 1, 3]):
        torch.testing.assert_close(got[row], values[row, :length].sum(0) / length)
    assert got[3].tolist() == [0, 0, 0]


def test_first_weights_are_as_stated() -> None:
    """Guards against torch's own (smaller) first weights: Xavier's bound is sqrt(6 / (in + out))."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 100), nn.Embedding(200, 50)).apply(init_weights)
    bound = (6 / 400) ** 0.5
    assert 0.98 * bound < model[0].weight.abs().max().item() <= bound and not model[0].bias.any()
    assert abs(model[1].weight.std().item() - 1) < 0.05
