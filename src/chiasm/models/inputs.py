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
        other, then padding; `number` says which value each token is of, and `pooled` is the mean over the
        values. An example without values has no real token and a `pooled` of zeros.
    """
    length, dim = tokens.values.shape[1:]
    count = torch.bincount(row, minlength=rows)
    most = max(int(count.max()) if len(row) else 0, 1)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    values = tokens.values.new_zeros(rows, most, length, dim).index_put((row, place), tokens.values)
    is_real = tokens.is_real.new_zeros(rows, most, length).index_put((row, place), tokens.is_real)
    pooled = tokens.pooled.new_zeros(rows, tokens.pooled.shape[1]).index_add(0, row, tokens.pooled)
    pooled = pooled / count.clamp_min(1)[:, None].to(pooled.dtype)
    number = torch.arange(most, device=row.device).repeat_interleave(length).expand(rows, -1)
    return Tokens(values.flatten(1, 2), is_real.flatten(1, 2), pooled, number=number)


def separated(tokens: Tokens) -> tuple[Tokens, Int[Tensor, " k"]]:
    """Undo `grouped`: the values of all examples, one row each.

    Returns:
        k encoded values of l tokens each, and the example of each, ascending. A value without a real token is left
        out. `pooled` is the example's.
    """
    most = _most_values(tokens)
    values, is_real = (part.unflatten(1, (most, -1)).flatten(0, 1) for part in (tokens.values, tokens.is_real))
    kept = is_real.any(1).nonzero()[:, 0]
    row = kept // most
    return Tokens(values[kept], is_real[kept], tokens.pooled[row]), row


def value_counts(tokens: Tokens) -> Int[Tensor, " n"]:
    """Number of values of each example, as `separated` gives them."""
    return tokens.is_real.unflatten(1, (_most_values(tokens), -1)).any(2).sum(1)


def _most_values(tokens: Tokens) -> int:
    return 1 if tokens.number is None else int(tokens.number[0, -1]) + 1
