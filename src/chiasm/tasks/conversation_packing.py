"""Conversations as rows of token ids: several about one example share a row, which holds what they begin with once.

A row is a tree of tokens in depth-first order, so that the tokens behind one of them stand next to it, up to its
`until`. Captions of an image share the image and how a caption is asked for; its questions share the image, the
instruction and the words that they begin with.

Axis legend: m rows, l tokens, t targets.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from chiasm.core.types import IMAGE_ID
from chiasm.data.tokenizers.chat import Spans


class Target(NamedTuple):
    """A counted token.

    Attributes:
        number: of its conversation among those of the row, from 0.
        place: of the token before it, whose state predicts it.
        id: its own id.
    """

    number: int
    place: int
    id: int


class PackedRow(NamedTuple):
    """One or more conversations about one example.

    Attributes:
        ids: token ids, `IMAGE_ID` where an image stands. What stands behind the last counted token of a conversation,
            and that token itself, predict nothing and are left out.
        until: the place behind the last token that may attend to the token.
        targets: the counted tokens of all conversations, each conversation's in order.
    """

    ids: list[int]
    until: list[int]
    targets: list[Target]


def packed(conversations: Sequence[Spans], shares: bool = True) -> list[PackedRow]:
    """Put conversations that begin alike, all their images included, into one row; others get a row each.

    Without `shares` each gets a row.
    """
    common = common_length([one.ids for one in conversations])
    if common and shares and not any(IMAGE_ID in one.ids[common:] for one in conversations):
        return [_tree(conversations)]
    return [_tree([one]) for one in conversations]


def padded(rows: Sequence[PackedRow], pad_id: int) -> dict[str, Tensor]:
    """Rows as tensors, padded on the right.

    Returns:
        `turn_ids`, `turn_is_real` and `turn_until` [m, l]; and of each row's targets `target_ids`, `target_is_real`,
        `target_places` and `target_numbers` [m, t].
    """
    targets = [row.targets for row in rows]
    ids, is_real = _table([row.ids for row in rows], pad_id)
    target_ids, target_is_real = _table([[one.id for one in some] for some in targets], pad_id)
    return {
        "turn_ids": ids,
        "turn_is_real": is_real,
        "turn_until": _table([row.until for row in rows], 0)[0],
        "target_ids": target_ids,
        "target_is_real": target_is_real,
        "target_places": _table([[one.place for one in some] for some in targets], 0)[0],
        "target_numbers": _table([[one.number for one in some] for some in targets], 0)[0],
    }


def _tree(conversations: Sequence[Spans]) -> PackedRow:
    """In lexicographic order, what a conversation shares with any before it, it shares with its neighbour."""
    read = [one.ids[: max(_counted(one), default=len(one.ids))] for one in conversations]
    ids: list[int] = []
    until: list[int] = []
    path: list[int] = []
    places: dict[int, list[int]] = {}
    for number in sorted(range(len(read)), key=read.__getitem__):
        shared = common_length([read[number], [ids[place] for place in path]])
        for place in path[shared:]:
            until[place] = len(ids)
        new = read[number][shared:]
        path = path[:shared] + list(range(len(ids), len(ids) + len(new)))
        places[number] = path
        ids += new
        until += [0] * len(new)
    for place in path:
        until[place] = len(ids)
    targets = [
        Target(number, places[number][place - 1], one.ids[place])
        for number, one in enumerate(conversations)
        for place in _counted(one)
    ]
    return PackedRow(ids, until, targets)


def _counted(one: Spans) -> list[int]:
    return [place for place, counts in enumerate(one.is_counted) if counts]


def common_length(lists: Sequence[Sequence[int]]) -> int:
    """Number of ids that all lists begin with."""
    columns = zip(*lists, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _table(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Int64 [m, longest], filled on the right, and True where a value stands; at least one column."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    values = torch.full((len(rows), width), fill, dtype=torch.long)
    is_real = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        is_real[number, : len(row)] = True
    return values, is_real
