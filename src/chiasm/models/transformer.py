"""The one transformer: pre-norm blocks with self-attention, optional cross-attention, and a key-value cache.

Axis legend: n rows of the batch, r rows of the context, q query tokens, k key tokens, d model width, h heads.
Pre-norm after Xiong et al. 2020 ("On Layer Normalization in the Transformer Architecture"); attention after
Vaswani et al. 2017, equation 1.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

POSITION_STD = 0.5
"""Initial standard deviation of position embeddings."""
SHORT_TOKENS = 128
"""On a CPU, up to this many keys, attention in bf16 or fp16 runs as two matrix products: forward and backward
of 3,072 rows of 9 tokens in bf16 are 3.5 (4 heads) to 12 times (2 heads) as fast as in the fused kernel. In fp32 the
fused kernel is 1.4 times as fast (`benchmarks/attention.py`, one thread)."""
MOST_SCORES = 1 << 25
"""On a CPU, with gradients in bf16 or fp16, more keys run so too, up to this many scores (64 MiB, kept for the backward
pass): of 208 keys the fused kernel takes 1.8 (2 heads) to 2.1 times as long (4 heads) on one thread of an Intel Xeon
with AMX, and 4.0 to 5.5 times on two (`benchmarks/attention.py --rows 64 --keys 208 --width 256 --causal`)."""

FEW_QUERIES = 4
"""On a CPU, without gradients, fewer queries than this (autoregressive decoding) run as matrix products too: the fused
kernel on two threads rounds them otherwise from call to call (see `models.batch_invariant`)."""


def attend(
    query: Float[Tensor, "n h q c"],
    key: Float[Tensor, "n h k c"],
    value: Float[Tensor, "n h k c"],
    allowed: Bool[Tensor, "..."] | None,
) -> Float[Tensor, "n h q c"]:
    """Scaled dot-product attention; `allowed` broadcasts to [n, h, q, k], True where a query may attend.

    A query that may attend to nothing gets zeros, and gives no gradient. Only the kernel differs by device, number
    format and length: torch's fused one or `matrix_attention`.
    """
    is_short = query.dtype.itemsize < 4 and (key.shape[2] <= SHORT_TOKENS or _trains_in_products(query, key))
    has_few_queries = not torch.is_grad_enabled() and query.shape[2] < FEW_QUERIES
    if query.device.type == "cpu" and (is_short or has_few_queries):
        return matrix_attention(query, key, value, allowed)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


def matrix_attention(
    query: Float[Tensor, "n h q c"],
    key: Float[Tensor, "n h k c"],
    value: Float[Tensor, "n h k v"],
    allowed: Bool[Tensor, "..."] | None,
) -> Float[Tensor, "n h q v"]:
    """`attend` as two matrix products and a softmax, with the whole score matrix in memory; for a CPU."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if allowed is None:
        return scores.softmax(dim=-1) @ value
    mixed = hide_(scores, allowed).softmax(dim=-1) @ value
    is_blind = ~allowed.any(dim=-1, keepdim=True)
    # The test is free on a CPU, and the fill would cost a tenth of the total.
    return mixed.masked_fill(is_blind, 0) if bool(is_blind.any()) else mixed


def hide_(scores: Float[Tensor, "... q k"], allowed: Bool[Tensor, "..."]) -> Float[Tensor, "... q k"]:
    """In place, give scores that are not `allowed` a weight of zero in each row that has others.

    The smallest number is added, not minus infinity: a fully masked row then has a softmax, where infinities give NaN.
    An addition has no backward pass, and filling has one that costs as much as the softmax.
    """
    hidden = torch.zeros(allowed.shape, dtype=scores.dtype, device=scores.device)
    return scores.add_(hidden.masked_fill_(~allowed, torch.finfo(scores.dtype).min))


def _trains_in_products(query: Tensor, key: Tensor) -> bool:
    return torch.is_grad_enabled() and query[..., 0].numel() * key.shape[2] <= MOST_SCORES


def attention_weights(
    query: Float[Tensor, "n h q c"], key: Float[Tensor, "n h k c"], allowed: Bool[Tensor, "..."] | None
) -> Float[Tensor, "n h q k"]:
    """The attention weights of `attend`: each row sums to 1, or is zero where no key is allowed."""
    values = torch.eye(key.shape[2], dtype=key.dtype, device=key.device).expand(*key.shape[:2], -1, -1)
    return matrix_attention(query, key, values, allowed)


_watched: ContextVar[dict[nn.Module, Tensor | None] | None] = ContextVar("watched", default=None)


@contextmanager
def watching(attentions: Iterable["Attention"]) -> Iterator[dict[nn.Module, Tensor | None]]:
    """Within the block, record the last attention weights [n, h, q, k] of each of these modules.

    Outside it no weights are computed.
    """
    notes: dict[nn.Module, Tensor | None] = dict.fromkeys(attentions)
    token = _watched.set(notes)
    try:
        yield notes
    finally:
        _watched.reset(token)


@dataclass(slots=True)
class KeyValueCache:
    """Cached keys and values of one block in autoregressive decoding; all None before the first token.

    Attributes:
        key: keys of the tokens so far, [n, h, k, c].
        value: values of the tokens so far, [n, h, k, c].
        context: keys and values of cross-attention, [r, h, k, c] each, projected once.
        by_query: new tokens attend one after the other, without a mask: several at once then give the sums, to the last
            bit, that each gives alone.
    """

    key: Tensor | None = None
    value: Tensor | None = None
    context: tuple[Tensor, Tensor] | None = None
    by_query: bool = False

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return 0 if self.key is None else self.key.shape[2]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the newest tokens and return all keys and values."""
        self.key = key if self.key is None else torch.cat([self.key, key], dim=2)
        self.value = value if self.value is None else torch.cat([self.value, value], dim=2)
        return self.key, self.value

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key[:, :, :length], self.value[:, :, :length]

    def select(self, rows: Int[Tensor, " m"]) -> None:
        """Select (and repeat) rows, as beam search reorders its beams.

        The context is unchanged: the beams of a text stay consecutive and share its row.
        """
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key[rows], self.value[rows]


class Attention(nn.Module):
    """Multi-head attention from `x` to itself, or to `context` where one is given.

    Args:
        dim: width of the queries and of the output; a multiple of `heads`.
        heads: number of heads.
        context_dim: width of the context tokens; None means `dim`.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(context_dim or dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """[n, l, d] -> [n, h, l, d / h]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(
        self, tokens: Float[Tensor, "r k e"], index: Int[Tensor, " n"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of `tokens`, [r, h, k, c] each; `index` selects rows after each row is projected once."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        if index is not None:
            key, value = key[index], value[index]
        return self.split(key), self.split(value)

    def attend(
        self,
        x: Float[Tensor, "n q d"],
        key: Float[Tensor, "r h k c"],
        value: Float[Tensor, "r h k c"],
        allowed: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "n q d"]:
        """Attend from `x` to keys and values of as many rows, or of fewer: n / r consecutive rows then share one.

        Sharing copies nothing: the queries of these rows are concatenated. A mask then has r rows and is the same for
        every query.
        """
        assert x.shape[0] % max(key.shape[0], 1) == 0, f"{x.shape[0]} rows cannot share {key.shape[0]} evenly"
        together = x.reshape(key.shape[0], -1, x.shape[-1]) if x.shape[0] != key.shape[0] else x
        query = self.split(self.query(together))
        if (watched := _watched.get()) is not None and self in watched:
            watched[self] = attention_weights(query, key, allowed)
        return self._output(attend(query, key, value, allowed), x)

    def attend_by_query(
        self, x: Float[Tensor, "n q d"], key: Float[Tensor, "n h k c"], value: Float[Tensor, "n h k c"]
    ) -> Float[Tensor, "n q d"]:
        """Causal attention of the newest q of k tokens, computed one token after the other."""
        query, before = self.split(self.query(x)), key.shape[2] - x.shape[1]
        ends = range(before + 1, key.shape[2] + 1)
        rows = zip(query.split(1, dim=2), ends, strict=True)
        mixed = [attend(one, key[:, :, :end], value[:, :, :end], None) for one, end in rows]
        return self._output(torch.cat(mixed, dim=2), x)

    def _output(self, mixed: Float[Tensor, "r h q c"], x: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        return self.out(mixed.transpose(1, 2).flatten(2)).view_as(x)

    def forward(
        self,
        x: Float[Tensor, "n q d"],
        context: Float[Tensor, "r k e"] | None = None,
        allowed: Bool[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
        context_index: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n q d"]:
        """Attend; with a `cache`, new keys are appended to it and all of its keys are used.

        `context_index` is the row of `context` that each row of `x` attends to. Each row of the context is then
        projected once: twelve questions about an image share its keys and values.
        """
        key, value = self.keys_values(x if context is None else context, context_index)
        if cache is not None:
            key, value = cache.append(key, value)
            if cache.by_query:
                return self.attend_by_query(x, key, value)
        return self.attend(x, key, value, allowed)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention where `context_dim` is given, MLP.

    Args:
        dim: token width.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        context_dim: width of the context tokens; None builds a block without cross-attention.
        dropout: probability in [0, 1) on each residual branch.
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 4.0, context_dim: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim) if context_dim else None
        self.cross_attention = Attention(dim, heads, context_dim) if context_dim else None
        self.mlp_norm = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def start_near_identity(self) -> None:
        """Scale down the output layers of self-attention and MLP, so that the block starts near the identity.

        Image tokens then stay local until attention is trained (after Zhang et al. 2019, "Fixup Initialization"; a
        tenth and not zero, so that every parameter has a gradient from the first step).
        """
        with torch.no_grad():
            for layer in (self.self_attention.out, self.mlp[-1]):
                assert isinstance(layer, nn.Linear)
                layer.weight.mul_(0.1)

    def forward(
        self,
        x: Float[Tensor, "n q d"],
        allowed: Bool[Tensor, "..."] | None = None,
        context: Float[Tensor, "r k e"] | None = None,
        context_allowed: Bool[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
        context_index: Int[Tensor, " n"] | None = None,
        content: Float[Tensor, "n k d"] | None = None,
    ) -> Float[Tensor, "n q d"]:
        """Masks broadcast to [n, h, q, k], True where attention is allowed; no context, no cross-attention.

        With `content`, keys and values of self-attention come from these tokens, not from `x`: the query stream of
        XLNet attends to the content stream (Yang et al. 2019, equations 3 and 4).

        `context` has a row for every row of `x`; or `context_index` is the row that each attends to; or it has r rows,
        and n / r consecutive rows of `x` share one (see `Attention.attend`). With a `cache`, `x` are the newest tokens
        only, and the context is projected only at the first call.
        """
        source = None if content is None else self.self_norm(content)
        x = x + self.dropout(self.self_attention(self.self_norm(x), source, allowed=allowed, cache=cache))
        if context is not None and self.cross_norm is not None and self.cross_attention is not None:
            known = None if cache is None else cache.context
            key, value = known or self.cross_attention.keys_values(context, context_index)
            if cache is not None and known is None:
                key, value = cache.context = key.contiguous(), value.contiguous()
            x = x + self.dropout(self.cross_attention.attend(self.cross_norm(x), key, value, context_allowed))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def drop_uniform_index(index: Int[Tensor, " n"] | None, rows: int) -> Int[Tensor, " n"] | None:
    """None where the index repeats each of the `rows` equally often, in order; else the index itself.

    `Attention.attend` then shares keys and values without copying them: attention of twenty questions to each of 32
    images is 3 times as fast in fp32 on a CPU. On a GPU the test would synchronise the device, and the copy is cheap.
    """
    if index is None or index.device.type != "cpu" or len(index) % rows:
        return index
    is_even = torch.equal(index.view(rows, -1), torch.arange(rows)[:, None].expand(-1, len(index) // rows))
    return None if is_even else index


def key_padding_mask(is_real: Bool[Tensor, "n k"]) -> Bool[Tensor, "n 1 1 k"]:
    """Key mask for `attend`, True for real tokens: no query attends to padding."""
    return is_real[:, None, None, :]


def causal(length: int, device: torch.device, start: int = 0) -> Bool[Tensor, "1 1 q k"]:
    """Mask for `attend`: token i attends to tokens 0..i; the queries are the last `length` of `start + length`."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)[None, None]


def masked_mean(values: Float[Tensor, "n l d"], is_real: Bool[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Mean over real tokens; a row without any gives zeros."""
    weight = is_real.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def init_weights(module: nn.Module) -> None:
    """Xavier linear layers, zero biases, normal(0, 1) embeddings (for `nn.Module.apply`).

    Embeddings and positions (`POSITION_STD`) are as large as the blocks' outputs. With the usual 0.02, meant for blocks
    that are scaled down too, the first attention's average dominates a token's own embedding and position:
    Sort-of-CLEVR's questions about one object stayed at chance for 700 steps (docs/log.md).
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
