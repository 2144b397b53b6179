"""Batch invariance: outputs that do not change, to the last bit, with what else is in the batch.

The CPU's matrix library takes another path for a product of very few rows than for one of many, and rounds otherwise:
with one thread 1 to 3 rows, with two threads also 5, 7 and 9. Every other step of our models treats rows alone
(`tests/models/test_batch_invariant.py`). Texts are padded to a multiple of `TOKEN_MULTIPLE` for the same reason: a sum
over tokens is computed in pieces of one vector register, and further zeros are further pieces.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKEN_MULTIPLE = 16
"""Numbers in the widest vector register, fp32."""
ROWS_A_THREAD = 4
"""Fewest rows of a thread with which the library takes its usual path."""
MANY = 32
"""Beyond so many rows a thread times `ROWS_A_THREAD` no remainder matters."""


class BatchInvariantLinear(nn.Linear):
    """A linear layer that rounds a row alike in every batch: in evaluation, few rows are padded with zero rows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that nn.Linear has
        """`nn.Linear`; where there are few rows, rows of zeros are added and their outputs dropped."""
        rows = input.numel() // self.in_features
        unit = ROWS_A_THREAD * torch.get_num_threads()
        if self.training or rows % unit == 0 or rows > MANY * unit:
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input.reshape(rows, self.in_features), (0, 0, 0, -rows % unit))
        return F.linear(filled, self.weight, self.bias)[:rows].view(*input.shape[:-1], self.out_features)


def make_batch_invariant(model: nn.Module) -> None:
    """Turn every plain linear layer of a model into a `BatchInvariantLinear`, in place; parameters and names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = BatchInvariantLinear


def positions(table: Tensor, length: int | torch.SymInt) -> Tensor:
    """The first rows of a table of position embeddings [most, d]; zeros beyond it, where only padding stands.

    `length` is symbolic while a graph is traced for texts of any length.
    """
    return table[:length] if length <= len(table) else F.pad(table, (0, 0, 0, cast(int, length - len(table))))
