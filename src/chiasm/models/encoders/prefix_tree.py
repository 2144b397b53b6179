"""Texts whose beginnings are equal, as one tree of tokens: under causal attention a beginning is computed once.

A token of a causal network depends on the tokens before it alone, so that texts which begin alike have equal states as
far as they agree: a third of the tokens of Flickr8k's captions, "a man in a red shirt ..." (docs/encoding.md). No
padding is computed except within attention.

Axis legend: m texts, l tokens of the longest text, k nodes of the tree, g texts of one width, w that width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.batch_invariant import TOKEN_MULTIPLE
from chiasm.models.transformer import FEW_QUERIES, attend, causal


class PrefixTree(NamedTuple):
    """The distinct beginnings of m texts; a node is the last token of one.

    Attributes:
        ids: int64 [k], the token of each node.
        place: int64 [k], how many tokens stand before it.
        row: int64 [k], a text that has the node.
        path: int64 [m, l], the nodes of each text in order; beyond its end any node.
        length: int64 [m], tokens of each text, at least 1.
    """

    ids: Tensor
    place: Tensor
    row: Tensor
    path: Tensor
    length: Tensor

    @property
    def last(self) -> Int[Tensor, " m"]:
        """The node of each text's last token."""
        return self.path.gather(1, self.length[:, None] - 1)[:, 0]

    def widths(self) -> Iterator[Int[Tensor, " g"]]:
        """The texts of each width that attention is computed with: lengths rounded up to `TOKEN_MULTIPLE`.

        The width follows from the text alone, so that its attention is the same in every batch.
        """
        pieces = (self.length + TOKEN_MULTIPLE - 1) // TOKEN_MULTIPLE
        for number in pieces.unique().tolist():
            yield (pieces == number).nonzero()[:, 0]


def prefix_tree(ids: Int[Tensor, "m l"], length: Int[Tensor, " m"]) -> PrefixTree:
    """Join texts at their beginnings.

    Args:
        ids: token ids; padding stands on the right.
        length: tokens of each text that count, in [1, l].
    """
    rows, ends = ids.cpu().numpy(), length.cpu().numpy()
    count, longest = rows.shape
    place = np.arange(longest)
    is_real = place < ends[:, None]
    order = np.lexsort(np.where(is_real, rows, -1).T[::-1])  # texts that begin alike stand side by side
    rows, is_real = rows[order], is_real[order]
    is_new = is_real.copy()
    agrees = (rows[1:] == rows[:-1]) & is_real[1:] & is_real[:-1]
    is_new[1:] &= ~np.logical_and.accumulate(agrees, axis=1)
    number = np.zeros((count, longest), dtype=np.int64)
    number[is_new] = np.arange(is_new.sum())
    path = np.empty_like(number)
    path[order] = np.maximum.accumulate(number, axis=0)
    row, at = np.nonzero(is_new)
    made = (rows[is_new], at, order[row], path, ends)
    return PrefixTree(*(torch.from_numpy(np.ascontiguousarray(part)).to(ids.device) for part in made))


def attend_in_tree(
    query: Float[Tensor, "k d"], key: Float[Tensor, "k d"], value: Float[Tensor, "k d"], tree: PrefixTree, heads: int
) -> Float[Tensor, "k d"]:
    """Causal multi-head attention of every node to itself and the nodes before it."""
    found = query.new_empty(tree.path.shape[0], _rounded(tree.path.shape[1]), query.shape[-1])
    for texts in tree.widths():
        path = _nodes(tree, texts)
        width = path.shape[1]
        asked, keys, values = (_split(part[path], heads) for part in (query, key, value))
        mixed = attend(asked, keys, values, causal(width, query.device))
        found[texts, :width] = mixed.transpose(1, 2).flatten(2)
    return found[tree.row, tree.place]


def attend_from_last(
    query: Float[Tensor, "m d"], key: Float[Tensor, "k d"], value: Float[Tensor, "k d"], tree: PrefixTree, heads: int
) -> Float[Tensor, "m d"]:
    """As `attend_in_tree`, for the last token of each text alone, whose queries are given."""
    found = torch.empty_like(query)
    for texts in tree.widths():
        path = _nodes(tree, texts)
        is_real = torch.arange(path.shape[1], device=path.device) < tree.length[texts, None]
        # As many equal queries as the fused kernel needs, which rounds alike however many texts there are.
        asked = _split(query[texts, None], heads).expand(-1, -1, FEW_QUERIES, -1)
        mixed = attend(asked, _split(key[path], heads), _split(value[path], heads), is_real[:, None, None])
        found[texts] = mixed[:, :, 0].flatten(1)
    return found


def _rounded(length: int) -> int:
    return -(-length // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


def _nodes(tree: PrefixTree, texts: Int[Tensor, " g"]) -> Int[Tensor, "g w"]:
    """The nodes of texts of one width; 0 beyond the longest of all texts, where no query of a text looks."""
    width = _rounded(int(tree.length[texts].max()))
    path = tree.path[texts, :width]
    return torch.nn.functional.pad(path, (0, width - path.shape[1]))


def _split(x: Float[Tensor, "g w d"], heads: int) -> Float[Tensor, "g h w c"]:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
