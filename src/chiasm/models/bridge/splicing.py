"""Rows for a language model: word embeddings with each image's tokens where its placeholder stands.

Rows may hold several conversations that begin alike, as a tree of tokens in depth-first order: a token attends to
those that it stands behind in a conversation, with positions as if that conversation stood alone.

Axis legend: m rows, l given tokens, k images, p tokens of an image, s positions after splicing, e embedding width, a
axes of a position.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.types import IMAGE_ID, Tokens


class GivenRows(NamedTuple):
    """Token ids of m rows.

    Attributes:
        ids: int64 [m, l], `IMAGE_ID` where an image stands.
        is_real: bool [m, l], True where the token is not padding; padding stands on the right.
        until: int64 [m, l], the place in the row behind the last token that may attend to the token, which are those
            from the token itself on; None where a row is one conversation.
        is_prompt: bool [m, l], True for tokens that attend to each other in both directions (a prefix language model,
            Raffel et al. 2020, "T5", section 3.2.1); None where all attention is causal.
    """

    ids: Tensor
    is_real: Tensor
    until: Tensor | None = None
    is_prompt: Tensor | None = None


class Spliced(NamedTuple):
    """Rows as a language model takes them.

    Attributes:
        embeddings: float [m, s, e].
        allowed: bool [m, s, s], True where a position (row of the mask) may attend to another.
        positions: int64 [m, s], place of each in its conversation, from 0.
        places: int64 [m, l + 1], where each given token stands, of an image its first one, and where the row ends.
        is_real: bool [m, s].
        axes: int64 [m, s, a], place of each on the axes of a language model that turns image tokens by row and column
            (M-RoPE, Wang et al. 2024, "Qwen2-VL", section 2.1); None where `positions` says all.
        shared: leading positions that hold the same words in all rows, behind which everything else stands, such as
            the system text of a chat template: their states are the same in all rows.
    """

    embeddings: Tensor
    allowed: Tensor
    positions: Tensor
    places: Tensor
    is_real: Tensor
    axes: Tensor | None = None
    shared: int = 0

    def ends(self, row: Int[Tensor, " r"], column: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
        """Positions of given tokens (row, column); of an image that of its last token."""
        return self.places[row, column + 1] - 1


def spliced(
    given: GivenRows,
    words: Float[Tensor, "m l e"],
    images: Tokens | None,
    image_of: Int[Tensor, "m l"],
) -> Spliced:
    """Put images among words.

    Args:
        given: the rows.
        words: embeddings of the ids; those of placeholders are not used.
        images: k projected images; None where there is none.
        image_of: number of the image of each placeholder, -1 where the image is absent: nothing stands there then.
    """
    is_image = (given.ids == IMAGE_ID) & given.is_real
    size = 0 if images is None else images.values.shape[1]
    lengths = torch.where(is_image, torch.where(image_of >= 0, size, 0), given.is_real.long())
    places = F.pad(lengths.cumsum(1), (1, 0))
    longest = max(int(places[:, -1].max()), 1) if len(places) else 1
    rows, dim = len(given.ids), words.shape[-1]
    embeddings = words.new_zeros(rows, longest, dim)
    is_real = given.is_real.new_zeros(rows, longest)
    until = places.new_full((rows, longest), longest)
    is_prompt = torch.zeros_like(is_real)
    row, column = (given.is_real & ~is_image).nonzero(as_tuple=True)
    at = places[row, column]
    embeddings = embeddings.index_put((row, at), words[row, column])
    is_real[row, at] = True
    ends = None if given.until is None else places.gather(1, given.until)
    if ends is not None:
        until[row, at] = ends[row, column]
    if given.is_prompt is not None:
        is_prompt[row, at] = given.is_prompt[row, column]
    if images is not None:
        row, column = (is_image & (image_of >= 0)).nonzero(as_tuple=True)
        at = places[row, column][:, None] + torch.arange(size, device=places.device)
        shown = image_of[row, column]
        row_at = row[:, None].expand_as(at)
        embeddings = embeddings.index_put((row_at, at), images.values[shown].to(embeddings.dtype))
        is_real[row_at, at] = images.is_real[shown]
        if ends is not None:
            until[row_at, at] = ends[row, column][:, None].expand_as(at)
        if given.is_prompt is not None:
            is_prompt[row_at, at] = given.is_prompt[row, column][:, None] & images.is_real[shown]
    allowed = _allowed(is_real, until)
    positions = ((allowed & is_real[:, None, :]).sum(2) - 1).clamp_min(0)
    axes = None
    if images is not None and images.steps is not None:
        steps = images.steps.new_zeros(rows, longest, images.steps.shape[2])
        steps[..., 0] = is_real
        steps[row_at, at] = images.steps[shown]
        axes = _axes(allowed, steps)
    if given.is_prompt is not None:
        allowed = allowed | (is_prompt[:, :, None] & is_prompt[:, None, :])
    return Spliced(embeddings, allowed, positions, places, is_real, axes, _shared(given))


def axes_along(steps: Int[Tensor, "s b"]) -> Int[Tensor, "s a"]:
    """Places on all axes of tokens that stand one after the other, from 0; `steps` as in `Tokens.steps`."""
    gone = steps[:, :1].cumsum(0) - steps[:, :1]
    return gone + steps[:, 1:]


def _axes(allowed: Bool[Tensor, "m s s"], steps: Int[Tensor, "m s b"]) -> Int[Tensor, "m s a"]:
    """As `axes_along` over what each position may attend to, itself excepted."""
    before = allowed & ~torch.eye(allowed.shape[1], dtype=torch.bool, device=allowed.device)
    gone = (before.float() @ steps[..., :1].float()).long()  # whole numbers below 2^24
    return gone + steps[..., 1:]


def _shared(given: GivenRows) -> int:
    """Number of given tokens as `Spliced.shared` has them, which ends before the first image."""
    if len(given.ids) < 2 or given.is_prompt is not None:
        return 0
    same = (given.ids == given.ids[0]).all(0) & given.is_real.all(0) & (given.ids != IMAGE_ID).all(0)
    if given.until is not None:
        same &= (given.until == given.is_real.sum(1)[:, None]).all(0)
    return int(same.long().cumprod(0).sum())


def _allowed(is_real: Bool[Tensor, "m s"], until: Int[Tensor, "m s"]) -> Bool[Tensor, "m s s"]:
    """True for real tokens up to a position that reach as far as it; padding sees itself alone."""
    length = is_real.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=is_real.device).tril()
    reaches = until[:, None, :] > torch.arange(length, device=until.device)[:, None]
    itself = torch.eye(length, dtype=torch.bool, device=is_real.device)
    return (before & reaches & is_real[:, None, :] & is_real[:, :, None]) | itself
