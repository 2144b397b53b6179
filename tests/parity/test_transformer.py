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
    drop_uniform_index,
    init_weights,
    key_padding_mask,
    masked_mean,
    matrix_attention,
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
    "some see nothing": torch.tensor([True, False, True])[:, None, None, None]
    & ~((torch.arange(ROWS)[:, None] == 2) & (torch.arange(QUERIES) == 3))[:, None, :, None],
    "both": lengths_mask([7, 3, 4], KEYS)[:, None, None, :] & torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(2),
}


def slow_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Vaswani et al. 2017, equation 1, in float64, one query after the other; zeros where nothing may be looked at."""
    query, key, value = query.double(), key.double(), value.double()
    rows, heads, queries, width = query.shape
    allowed = torch.ones(1, dtype=torch.bool) if allowed is None else allowed
    allowed = allowed.expand(rows, heads, queries, key.shape[2])
    out = []
    for n in range(rows):
        for h in range(heads):
            for q in range(queries):
                seen = allowed[n, h, q].nonzero()[:, 0]
                weight = torch.exp(key[n, h, seen] @ query[n, h, q] / width**0.5)
                out.append((weight[:, None] * value[n, h, seen]).sum(0) / weight.sum().clamp_min(1e-300))
    return torch.stack(out).view(rows, heads, queries, width)


@pytest.mark.parametrize("name", sorted(MASKS))
def test_both_kernels_equal_a_slow_loop(name: str) -> None:
    """Guards against a missing scale, a mask turned round, and a softmax over the wrong axis; gradients too.

    A query that may look at nothing gets zeros and gives no gradient, and leaves its neighbours alone: no NaN.
    """
    found = {}
    for kernel in (slow_attention, matrix_attention, attend):
        shapes = (QUERIES, KEYS, KEYS)
        leaves = [numbers(ROWS, HEADS, n, 4, seed=s).requires_grad_() for s, n in enumerate(shapes)]
        mixed = kernel(*leaves, MASKS[name])
        (mixed * numbers(*mixed.shape, seed=9)).sum().backward()
        found[kernel] = [mixed.double(), *(leaf.grad for leaf in leaves)]
    if name == "some see nothing":
        assert found[attend][0][1].eq(0).all() and found[attend][0][2, :, 3].eq(0).all()
    torch.testing.assert_close(found[matrix_attention], found[slow_attention], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[attend], found[slow_attention], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "length", "trains", "is_fused"),
    [
        (torch.bfloat16, transformer.SHORT_TOKENS, False, False),
        (torch.bfloat16, transformer.SHORT_TOKENS + 1, False, True),
        (torch.bfloat16, transformer.SHORT_TOKENS + 1, True, False),
        (torch.bfloat16, 2 * transformer.SHORT_TOKENS, True, True),
        (torch.float32, 4, True, True),
    ],
)
@pytest.mark.parametrize("is_masked", [False, True])
def test_the_kernel_is_chosen_by_format_and_length(
    dtype: torch.dtype, length: int, trains: bool, is_fused: bool, is_masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against the slower kernel, and a score matrix of a page of tokens; either is right to bf16's precision."""
    queries = transformer.FEW_QUERIES
    monkeypatch.setattr(transformer, "MOST_SCORES", 2 * queries * (transformer.SHORT_TOKENS + 1))
    calls: list[int] = []
    kernel = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        calls.append(key.shape[2])
        return kernel(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(transformer.F, "scaled_dot_product_attention", watched)
    tensors = [numbers(2, 1, n, 4, seed=s).to(dtype) for s, n in enumerate((queries, length, length))]
    allowed = lengths_mask([length // 2, 0], length)[:, None, None] if is_masked else None
    with torch.set_grad_enabled(trains):
        got = attend(*tensors, allowed)
    assert bool(calls) == is_fused and got.dtype == dtype
    torch.testing.assert_close(got.double(), slow_attention(*tensors, allowed), rtol=2e-2, atol=2e-2)


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
    got = ours(x, context, key_padding_mask(is_real))
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
    allowed = {"none": None, "padding": key_padding_mask(is_real), "causal": causal(QUERIES, x.device)}[mask]
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
    got = ours(x, causal(QUERIES, x.device), context, key_padding_mask(is_real))
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
        allowed = key_padding_mask(is_real[index])
        if is_indexed:
            out = block(x, context=context, context_allowed=allowed, context_index=index)
        else:
            out = block(x, context=context[index], context_allowed=allowed)
        out.square().sum().backward()
        found.append([out, context.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)


def test_consecutive_rows_share_a_context_row() -> None:
    """Guards against beams that look at another picture: the same as copies of it, gradient and all."""
    block = randomize(Block(DIM, HEADS, context_dim=8))
    x, is_real = numbers(6, QUERIES, DIM), lengths_mask([7, 3], KEYS)
    found = []
    for repeats in (1, 3):
        context = numbers(2, KEYS, 8, seed=1).requires_grad_()
        each = context.repeat_interleave(repeats, 0)
        out = block(x, context=each, context_allowed=key_padding_mask(is_real.repeat_interleave(repeats, 0)))
        out.square().sum().backward()
        found.append([out, context.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)
    with pytest.raises(AssertionError, match="cannot share"):
        block(x[:5], context=context, context_allowed=key_padding_mask(is_real))


@pytest.mark.parametrize("steps", [[1, 1, 1, 1, 1], [3, 1, 1], [2, 3]])
def test_a_cache_equals_a_causal_mask(steps: list[int]) -> None:
    """Guards against a cache that forgets, repeats or reorders keys: the newest token sees all before it."""
    attention = randomize(Attention(DIM, HEADS))
    x = numbers(ROWS, QUERIES, DIM)
    expected = attention(x, allowed=causal(QUERIES, x.device))
    cache, start = KeyValueCache(), 0
    for step in steps:
        assert cache.length == start
        got = attention(x[:, start : start + step], allowed=causal(step, x.device, start), cache=cache)
        torch.testing.assert_close(got, expected[:, start : start + step], rtol=1e-5, atol=1e-5)
        start += step


def test_selected_rows_go_on_from_their_own_words() -> None:
    """Guards against keys without their values, and words of another beam, after rows were reordered and repeated."""
    attention, rows = randomize(Attention(DIM, HEADS)), torch.tensor([2, 0, 0, 1])
    x = numbers(ROWS, 4, DIM)
    cache = KeyValueCache()
    cache.select(torch.tensor([0]))  # before the first word there is nothing to select
    attention(x[:, :3], allowed=causal(3, x.device), cache=cache)
    cache.select(rows)
    got = attention(x[rows, 3:], cache=cache)
    torch.testing.assert_close(got, attention(x[rows], allowed=causal(4, x.device))[:, 3:], rtol=1e-5, atol=1e-5)


def test_a_cached_context_is_projected_once() -> None:
    """Guards against a picture that is projected again at every word, and a cache that another block's answer fills."""
    block = randomize(Block(DIM, HEADS, context_dim=8))
    assert block.cross_attention is not None
    calls: list[tuple[int, ...]] = []
    block.cross_attention.key_value.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    x, context, is_real = numbers(4, 3, DIM), numbers(2, KEYS, 8, seed=1), lengths_mask([7, 3], KEYS)
    expected = block(x, causal(3, x.device), context, key_padding_mask(is_real))
    calls.clear()
    cache = KeyValueCache()
    for position in range(3):
        got = block(x[:, position : position + 1], None, context, key_padding_mask(is_real), cache)
        torch.testing.assert_close(got, expected[:, position : position + 1], rtol=1e-5, atol=1e-5)
    assert calls == [context.shape]


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


def test_rows_that_share_evenly_are_found() -> None:
    """Guards against questions that look at another's picture: only equal shares in order may drop the index."""
    even = torch.arange(3).repeat_interleave(2)
    assert drop_uniform_index(even, 3) is None and drop_uniform_index(torch.arange(3), 3) is None
    for index, rows in ((even.flip(0), 3), (torch.tensor([0, 0, 0, 1, 1, 2]), 3), (even, 4), (torch.arange(2), 4)):
        assert drop_uniform_index(index, rows) is index
    assert drop_uniform_index(None, 3) is None


def test_sharing_a_context_equals_copying_it() -> None:
    """Guards against queries of one row that reach another row's context when nothing is copied."""
    attention = randomize(Attention(DIM, HEADS))
    x, context = numbers(2 * ROWS, QUERIES, DIM), numbers(ROWS, KEYS, DIM, seed=1)
    index, is_real = torch.arange(ROWS).repeat_interleave(2), lengths_mask([7, 2, 4], KEYS)
    copied = attention(x, context, key_padding_mask(is_real[index]), context_index=index)
    shared = attention(x, context, key_padding_mask(is_real), context_index=drop_uniform_index(index, ROWS))
    torch.testing.assert_close(shared, copied, rtol=1e-5, atol=1e-6)
