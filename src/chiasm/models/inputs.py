"""Several values of one example as one row of tokens."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from chiasm.core.types import InputValue, Stacked, Tokens


def encode_rows(value: InputValue, encode: Callable[[Tensor | Tokens], Tokens]) -> Tokens:
    """Encode an input of n examples -> Tokens of n rows.

    Args:
        value: the input.
        encode: encodes values, one row each; the rows of a `Stacked` input are then joined by `grouped`.
    """
    if isinstance(value, Stacked):
        tokens = encode(value.values)
        return grouped(tokens, value.row.to(tokens.values.device), value.rows)
    return encode(value)


def grouped(tokens: Tokens, row: Int[Tensor, " k"], rows: int) -> Tokens:
    """Join the tokens of the values that belong to one example.

    Args:
        tokens: k encoded values of l tokens each.
        row: the example that each value belongs to, ascending.
        rows: number of examples n.

    Returns:
        n rows of as many tokens as the example with most values has. A row holds its values' tokens one after the
        other, then padding; `pooled` is the mean over its values. An example without values has no real token and a
        `pooled` of zeros.
    """
    length, dim = tokens.values.shape[1:]
    count = torch.bincount(row, minlength=rows)
    most = max(int(count.max()) if len(row) else 0, 1)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    values = tokens.values.new_zeros(rows, most, length, dim).index_put((row, place), tokens.values)
    is_real = tokens.is_real.new_zeros(rows, most, length).index_put((row, place), tokens.is_real)
    pooled = tokens.pooled.new_zeros(rows, tokens.pooled.shape[1]).index_add(0, row, tokens.pooled)
    pooled = pooled / count.clamp_min(1)[:, None].to(pooled.dtype)
    return Tokens(values.flatten(1, 2), is_real.flatten(1, 2), pooled)
