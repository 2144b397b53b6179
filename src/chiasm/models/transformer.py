"""The one transformer: pre-norm blocks with self-attention, optional cross-attention, and a key-value cache.

Axis legend: n rows of the batch, r rows of the context, q query tokens, k key tokens, d model width, h heads.
Pre-norm after Xiong et al. 2020 ("On Layer Normalization in the Transformer Architecture"); attention after
Vaswani et al. 2017, equation 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

POSITION_STD = 0.5
"""Spread of learned positions at the start."""
SHORT_TOKENS = 128
"""On a CPU, up to this many keys, attention runs as two matrix products: forward and backward of 3,072 rows of 9 tokens
in bf16 are 3.5 (4 heads) to 12 times (2 heads) as fast as in the fused kernel, and 0.7 times in fp32
(`benchmarks/attention.py`, one thread)."""


def attend(
    query: Float[Tensor, "n h q c"],
    key: Float[Tensor, "n h k c"],
    value: Float[Tensor, "n h k c"],
    allowed: Bool[Tensor, "..."] | None,
) -> Float[Tensor, "n h q c"]:
    """Scaled dot-product attention; `allowed` broadcasts to [n, h, q, k], True where a query may look.

    Every query must be allowed at least one key. Same value as `F.scaled_dot_product_attention`; only the
    kernel differs by device and length.
    """
    if query.device.type != "cpu" or key.shape[2] > SHORT_TOKENS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1) @ value


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of the tokens decoded so far in one attention layer, [n, h, k, c] each; None before the first."""

    key: Tensor | None = None
    value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest tokens and return all keys and values."""
        self.key = key if self.key is None else torch.cat([self.key, key], dim=2)
        self.value = value if self.value is None else torch.cat([self.value, value], dim=2)
        return self.key, self.value


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

    def forward(
        self,
        x: Float[Tensor, "n q d"],
        context: Float[Tensor, "r k e"] | None = None,
        allowed: Bool[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
        context_index: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n q d"]:
        """Attend; with a `cache`, new keys are appended to it and all of them are looked at.

        `context_index` says which row of `context` each row of `x` looks at. The context is then projected once
        a row and not once a query row: twelve questions about a picture share its keys and values.
        """
        key, value = self.key_value(x if context is None else context).chunk(2, dim=-1)
        if context_index is not None:
            key, value = key[context_index], value[context_index]
        key, value = self.split(key), self.split(value)
        if cache is not None:
            key, value = cache.append(key, value)
        mixed = attend(self.split(self.query(x)), key, value, allowed)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention where `context_dim` is given, MLP.

    Args:
        dim: token width.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over `dim`.
        context_dim: width of the tokens to look at; None builds a block without cross-attention.
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
        """Shrink the last map of self-attention and MLP: the block starts by passing its tokens on almost unchanged.

        Image tokens then keep what is at their place until attention has learned where to look (the idea of Zhang et
        al. 2019, "Fixup Initialization"; a tenth and not zero, so that every parameter learns from the first step).
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
    ) -> Float[Tensor, "n q d"]:
        """Masks broadcast to [n, h, q, k] and say where looking is allowed; without context nothing is looked at."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), allowed=allowed, cache=cache))
        if context is not None and self.cross_norm is not None and self.cross_attention is not None:
            x = x + self.dropout(
                self.cross_attention(self.cross_norm(x), context, context_allowed, context_index=context_index)
            )
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def may_look_at(is_real: Bool[Tensor, "n k"]) -> Bool[Tensor, "n 1 1 k"]:
    """Key mask for `attend`: every query may look at every real token."""
    return is_real[:, None, None, :]


def causal(length: int, device: torch.device) -> Bool[Tensor, "1 1 q k"]:
    """Mask for `attend`: token i may look at tokens 0..i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def masked_mean(values: Float[Tensor, "n l d"], is_real: Bool[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Mean over real tokens; a row without any gives zeros."""
    weight = is_real.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def init_weights(module: nn.Module) -> None:
    """Xavier linear layers, zero biases, normal(0, 1) embeddings (for `nn.Module.apply`).

    Embeddings and positions (`POSITION_STD`) are as large as what the blocks add to them. With the usual 0.02, made
    for blocks that are scaled down too, the first attention average drowns which word and which place a token is:
    Sort-of-CLEVR's questions about one object stayed at chance for 700 steps (docs/log.md).
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
