"""Answers that do not change, to the last bit, with what else is in the batch.

A matrix product of very few rows takes another path through the CPU's library than one of many, and is rounded
otherwise: with one thread 1 to 3 rows, with two threads also 5, 7 and 9. Every other step of our models treats rows
alone (`tests/models/test_batch_invariant.py`). Texts are padded to a multiple of `STEADY_TOKENS` for the same reason:
a sum over words is made in pieces of a vector register, and further zeros are further pieces.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEADY_TOKENS = 16
"""Numbers in the widest vector register, fp32."""
ROWS_A_THREAD = 4
"""Fewest rows of a thread with which the library takes its usual path."""
MANY = 32
"""Beyond so many rows a thread times `ROWS_A_THREAD` no remainder matters."""


class SteadyLinear(nn.Linear):
    """A linear map that rounds a row alike in every batch: in evaluation, few rows are filled up with zeros."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that nn.Linear has
        """`nn.Linear`, with rows added and taken off again where there are few."""
        rows = input.numel() // self.in_features
        unit = ROWS_A_THREAD * torch.get_num_threads()
        if self.training or rows % unit == 0 or rows > MANY * unit:
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input.reshape(rows, self.in_features), (0, 0, 0, -rows % unit))
        return F.linear(filled, self.weight, self.bias)[:rows].view(*input.shape[:-1], self.out_features)


def make_steady(model: nn.Module) -> None:
    """Turn every plain linear layer of a model into a `SteadyLinear`, in place; parameters and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = SteadyLinear


def positions(table: Tensor, length: int) -> Tensor:
    """The first rows of a table of positions [most, d]; zeros beyond it, where only padding stands."""
    return table[:length] if length <= len(table) else F.pad(table, (0, 0, 0, length - len(table)))
