"""Conversations as rows of token ids: several that begin alike share one row, which computes their beginning once.

Axis legend: m rows, l tokens.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from chiasm.core.types import IMAGE_ID
from chiasm.data.tokenizers.chat import Spans


class PackedRow(NamedTuple):
    """One or more conversations about one example.

    Attributes:
        ids: token ids, `IMAGE_ID` where an image stands.
        branch: 0 for the shared beginning, then the number of the conversation, from 1.
        is_counted: True for tokens that the assistant says.
    """

    ids: list[int]
    branch: list[int]
    is_counted: list[bool]


def packed(conversations: Sequence[Spans], shares: bool = True) -> list[PackedRow]:
    """Put conversations that begin alike, all their images included, into one row; others get a row each.

    The shared beginning ends before the token that stands before the first counted one: each branch then holds the
    token that its first counted token is predicted from. Without `shares` each gets a row.
    """
    if len(conversations) < 2 or not shares:
        return [_alone(one) for one in conversations]
    length = min(_common(conversations), *(one.is_counted.index(True) - 1 for one in conversations))
    beginning = conversations[0].ids[: max(length, 0)]
    if length < 1 or any(IMAGE_ID in one.ids[length:] for one in conversations):
        return [_alone(one) for one in conversations]
    ids, branch, is_counted = list(beginning), [0] * length, [False] * length
    for number, one in enumerate(conversations, 1):
        ids += one.ids[length:]
        branch += [number] * (len(one.ids) - length)
        is_counted += one.is_counted[length:]
    return [PackedRow(ids, branch, is_counted)]


def padded(rows: Sequence[PackedRow], pad_id: int) -> dict[str, Tensor]:
    """`turn_ids`, `turn_is_real`, `turn_branch` and `turn_is_counted` [m, l], padded on the right."""
    width = max((len(row.ids) for row in rows), default=1)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    is_real, is_counted = (
        torch.zeros(len(rows), width, dtype=torch.bool),
        torch.zeros(len(rows), width, dtype=torch.bool),
    )
    branch = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length], branch[number, :length] = torch.tensor(row.ids), torch.tensor(row.branch)
        is_counted[number, :length], is_real[number, :length] = torch.tensor(row.is_counted), True
    return {"turn_ids": ids, "turn_is_real": is_real, "turn_branch": branch, "turn_is_counted": is_counted}


def _alone(one: Spans) -> PackedRow:
    return PackedRow(one.ids, [0] * len(one.ids), one.is_counted)


def _common(conversations: Sequence[Spans]) -> int:
    columns = zip(*(one.ids for one in conversations), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
