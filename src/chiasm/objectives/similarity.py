"""Shared by the contrasts: positive pairs, sums over all pairs in chunks, and several processes.

Axis legend: n images and m texts of this process, q rows of it that search, k rows that are searched (those of all
processes), l links between labels (texts of all processes), e numbers of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chiasm.core.distributed import gather_with_gradient, own_rows, share_of_mean
from chiasm.core.errors import InputError

PIECE_PAIRS = 2**22
"""Similarities that are computed at once unless `chunk_rows` is given: 16 MiB in float32, and about seven times as much
with masks and gradients. 2,048 images and texts fit; 8,192 are computed in 16 pieces a direction."""


class Pairing(NamedTuple):
    """Which searching rows belong to which searched rows.

    Attributes:
        query: int64 [q], label of each searching row.
        key: int64 [k], label of each searched row.
        link: int64 [2, l]; rows with labels (a, b) belong together where a column of `link` is (a, b), and labels
            count from 0. None: rows with equal labels belong together.
        rows: searching rows of all processes that have a row to find.
        wrong: int64 [k], labels of the rows that are searched beside those of `key` and that are made to be wrong.
    """

    query: Tensor
    key: Tensor
    link: Tensor | None
    rows: int
    wrong: Tensor | None = None


def pair_up(
    image_group: Int[Tensor, " n"],
    text_group: Int[Tensor, " m"],
    text_key: Int[Tensor, " m"] | None = None,
    wrong_key: Int[Tensor, " m"] | None = None,
) -> tuple[Pairing, Pairing]:
    """Return the positives among all processes: of images that search texts, and of texts that search images.

    An image and a text belong together if their groups are equal. With `text_key`, texts of equal key are one
    sentence, so an image belongs with every text whose key occurs in the image's group. The relation is not
    transitive: of two images that share one of two sentences each, neither gets the other's second sentence.
    `wrong_key` are sentences, one a text, that images search too; the labels show which of
    them are true sentences of an image.
    """
    image_label, text_label = gather_with_gradient(image_group), gather_with_gradient(text_group)
    sentence, link, wrong = text_label, None, None
    if text_key is not None:
        image_label, text_label = _count_from_zero(image_label, text_label)
        keys = [gather_with_gradient(key) for key in (text_key, wrong_key) if key is not None]
        sentence, *wrongs = _count_from_zero(*keys)
        link, wrong = torch.stack([text_label, sentence]), (wrongs[0] if wrongs else None)
    found = sentence[torch.isin(text_label, image_label)]
    image_rows = int(torch.isin(image_label, text_label).sum())
    text_rows = int(torch.isin(sentence, found).sum())
    back = None if link is None else link.flip(0)
    return (
        Pairing(image_label[own_rows(len(image_group))], sentence, link, image_rows, wrong),
        Pairing(sentence[own_rows(len(text_group))], image_label, back, text_rows),
    )


def is_positive(
    query: Int[Tensor, " q"], key: Int[Tensor, " k"], link: Int[Tensor, "2 l"] | None
) -> Bool[Tensor, "q k"]:
    """True where a searching and a searched row belong together; memory grows with q * (k + l)."""
    if link is None:
        return query[:, None] == key
    is_linked = (query[:, None] == link[0]).to(torch.float32)
    labels = int(torch.cat([link[1], key]).max()) + 1 if key.numel() else 0
    reached = is_linked.new_zeros(len(query), labels).index_add_(1, link[1], is_linked) > 0
    return reached[:, key]


def search_loss(
    query: Float[Tensor, "q e"], key: Float[Tensor, "k e"], pairing: Pairing, chunk_rows: int
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the searching rows of all processes, each against its positives in equal parts."""
    total = sum_in_pieces(_summed_cross_entropy, chunk_rows, (query, pairing.query), (key, pairing.key, pairing.link))
    return mean_over_rows(total, pairing)


def cross_entropy_rows(
    logits: Float[Tensor, "q k"], positive: Bool[Tensor, "q k"]
) -> tuple[Float[Tensor, " q"], Bool[Tensor, " q"]]:
    """Return for each row `logsumexp_j s_j - mean of s_j over its positives`, 0 without any, and whether it has any."""
    count = positive.sum(1)
    mean = torch.where(positive, logits, 0).sum(1) / count.clamp_min(1)
    return torch.where(count > 0, logits.logsumexp(1) - mean, 0), count > 0


def _summed_cross_entropy(
    query: Float[Tensor, "q e"],
    query_label: Int[Tensor, " q"],
    key: Float[Tensor, "k e"],
    key_label: Int[Tensor, " k"],
    link: Int[Tensor, "2 l"] | None,
) -> Float[Tensor, ""]:
    return cross_entropy_rows(query @ key.T, is_positive(query_label, key_label, link))[0].sum()


def sum_in_pieces(
    piece: Callable[..., Tensor], chunk_rows: int, rows: Sequence[Tensor], whole: Sequence[Tensor | None]
) -> Tensor:
    """Return `piece(*rows, *whole)`, a sum over rows, as the sum of pieces of `chunk_rows` rows.

    A piece is computed again in the backward pass, so memory grows with chunk_rows and not with the number of rows.

    Args:
        piece: rows and the whole -> the sum over these rows.
        chunk_rows: 0 takes as many rows as have `PIECE_PAIRS` similarities, at least one.
        rows: tensors with one row each.
        whole: what every piece needs; the first has a row for each similarity of a row.

    Raises:
        InputError: chunk_rows is negative.
    """
    if chunk_rows < 0:
        raise InputError(f"chunk_rows is {chunk_rows}", "0 (by the sizes) or a number of rows", "give 0 or more")
    if not chunk_rows:
        assert whole[0] is not None, "what is searched comes first"
        chunk_rows = max(PIECE_PAIRS // max(len(whole[0]), 1), 1)
    if chunk_rows >= len(rows[0]):
        return piece(*rows, *whole)
    parts = zip(*(torch.split(one, chunk_rows) for one in rows), strict=True)
    sums = [checkpoint(piece, *part, *whole, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(sums).sum(0)


def mean_over_rows(total: Float[Tensor, ""], pairing: Pairing) -> Float[Tensor, ""]:
    """This process's sum of a loss over rows -> its part of the mean over the rows of all processes.

    Rows count that have a positive among the columns (`pairing.rows` in all processes).

    Raises:
        InputError: no row of any process has a positive.
    """
    if not pairing.rows:
        raise InputError("no image of the batch shares its group with a text", "pairs", "collate texts along")
    return share_of_mean(total, pairing.rows)


def _count_from_zero(*labels: Int[Tensor, " _"]) -> tuple[Tensor, ...]:
    """Other labels, from 0 up, that are equal where the given ones are."""
    number = torch.unique(torch.cat(labels), return_inverse=True)[1]
    return number.split([len(one) for one in labels])
