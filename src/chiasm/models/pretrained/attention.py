"""Attention of transformers' networks on a CPU: matrix products where they are faster than the fused kernel.

In bf16 with gradients, forward and backward of 8 rows of 160 tokens with 9 heads take 12.8 ms in place of 36.7, of 320
tokens 41.5 in place of 57.4 (medians of three interleaved rounds, two threads of an AMD EPYC). Keys and values that
several heads share (grouped-query attention, Ainslie et al. 2023) are not repeated.

Axis legend: n rows, h heads, g heads that share keys, q query and k key tokens, c width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.transformer import FEW_QUERIES, hide_

NAME = "chiasm"
"""Under which transformers finds it."""
MOST_KEYS = 1024
"""Most keys for which the whole matrix of scores is kept."""


def use_matrix_attention(network: Any) -> None:
    """Let a network of transformers compute attention here, if it now uses the fused kernel and caps no score."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    text = network.config.get_text_config()
    if network.config._attn_implementation != "sdpa" or getattr(text, "attn_logit_softcapping", None):
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    network.set_attn_implementation(NAME)


def grouped_attention(
    query: Float[Tensor, "n h q c"],
    key: Float[Tensor, "n j k c"],
    value: Float[Tensor, "n j k c"],
    mask: Tensor | None,
    scale: float,
) -> Float[Tensor, "n h q c"]:
    """softmax(scale q k^T + mask) v with h / j heads sharing keys and values.

    Args:
        query: projected tokens.
        key: of heads that each serve h / j heads of the query.
        value: as `key`.
        mask: added to the scores, [n, 1, q, k], or True where a query may attend; None is causal.
        scale: factor on the scores.
    """
    rows, heads, length, width = query.shape
    shared = key.shape[1]
    together = (query * scale).reshape(rows, shared, heads // shared * length, width)
    scores = (together @ key.transpose(-1, -2)).view(rows, shared, heads // shared, length, -1)
    if mask is None:
        causal = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device)
        mask = causal.tril(key.shape[2] - length)[None, None]
    scores = hide_(scores, mask[:, :, None]) if mask.dtype == torch.bool else scores + mask[:, :, None]
    mixed = scores.softmax(-1).view(rows, shared, heads // shared * length, -1) @ value
    return mixed.view(rows, heads, length, width)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: projected tokens [n, h, l, c] -> [n, l, h, c]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    trains = query.requires_grad and query.dtype.itemsize < 4 and key.shape[2] <= MOST_KEYS
    if query.device.type == "cpu" and (trains or query.shape[2] < FEW_QUERIES):
        return grouped_attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    mixed = F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, 1) if groups > 1 else key,
        value.repeat_interleave(groups, 1) if groups > 1 else value,
        attn_mask=attention_mask,
        is_causal=attention_mask is None and query.shape[2] > 1,
        scale=scale,
    )
    return mixed.transpose(1, 2).contiguous(), None
