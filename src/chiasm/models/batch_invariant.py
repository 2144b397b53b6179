"""Batch invariance: outputs that do not change, to the last bit, with what else is in the batch.

The CPU's matrix library takes another path for a product of few rows than for one of many, and rounds otherwise. Few
are fewer than 4 rows a thread on an AMD EPYC, and fewer than 16 on an Intel Xeon with AVX-512, which on several threads
also divides rows of more than 768 numbers among them. So few rows are padded, and long rows added up in pieces. Every
other step of our models treats rows alone (`tests/models/test_batch_invariant.py`). Texts are padded to a multiple of
`TOKEN_MULTIPLE` for the same reason: a sum over tokens is computed in pieces of one vector register, and further zeros
are further pieces.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKEN_MULTIPLE = 16
"""Numbers in the widest vector register, fp32."""
ROWS = 16
"""Fewest rows with which the library takes its usual path."""
ROWS_A_THREAD = 4
"""Fewest rows of a thread with which it does."""
MANY = 32
"""Beyond so many rows a thread times `ROWS` no remainder matters."""
PIECE = 768
"""Most numbers of a row that several threads add up as one thread does."""


class BatchInvariantLinear(nn.Linear):
    """A linear layer that rounds a row alike in every batch: in evaluation, few rows are padded with zero rows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that nn.Linear has
        """`nn.Linear`; where there are few rows, rows of zeros are added and their outputs dropped."""
        threads, rows = torch.get_num_threads(), input.numel() // self.in_features
        is_long = threads > 1 and self.in_features > PIECE
        is_many = rows > MANY * ROWS * threads and self.out_features >= ROWS
        more = 0 if is_many else -rows % max(ROWS, ROWS_A_THREAD * threads)
        if self.training or not (more or is_long):
            return F.linear(input, self.weight, self.bias)
        filled = F.pad(input.reshape(rows, self.in_features), (0, 0, 0, more))
        found = self._in_pieces(filled) if is_long else F.linear(filled, self.weight, self.bias)
        return found[:rows].view(*input.shape[:-1], self.out_features)

    def _in_pieces(self, rows: Tensor) -> Tensor:
        parts = zip(rows.split(PIECE, 1), self.weight.split(PIECE, 1), strict=True)
        part, weight = next(parts)
        total = F.linear(part, weight, self.bias)
        for part, weight in parts:
            total = torch.addmm(total, part, weight.T)
        return total


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
