"""Image-text contrast: a picture shall find its sentences among all sentences of the batch, and the reverse.

InfoNCE of CLIP (Radford et al. 2021, figure 3) with several positives a row as in UniCL (Yang et al. 2022, "Unified
Contrastive Learning in Image-Text-Label Space", equations 3 and 4).

Axis legend: n pictures and m texts of this process, q rows that search, k rows that are searched (those of all
processes), e numbers of an embedding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chiasm.core.distributed import gather_with_gradient, world_size
from chiasm.core.errors import InputError


def softmax_contrast(
    image: Float[Tensor, "n e"],
    text: Float[Tensor, "m e"],
    logit_scale: Float[Tensor, ""],
    image_group: Int[Tensor, " n"],
    text_group: Int[Tensor, " m"],
    chunk_rows: int = 0,
) -> dict[str, Tensor]:
    """Symmetric softmax contrast in which rows of equal group are positives of each other.

    For a picture i with positive texts P(i), the loss is the cross-entropy between the softmax over all texts and the
    uniform distribution over P(i): `logsumexp_j s_ij - mean_{j in P(i)} s_ij` with `s_ij = logit_scale * <image_i,
    text_j>`. With one positive a row it is CLIP's loss. Captions of one picture, or two copies of a picture, are
    never pushed apart as false negatives. A row without positive has no target: it is left out of its mean and still
    serves as a negative.

    Computed in float32 (float64 for float64 input), autocast or not. In several processes, rows are contrasted with
    the rows of all of them; every process passes equally many pictures, and equally many texts. The returned value
    is that of the whole batch, and after `average_gradients` so is the gradient.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: factor on the cosine, the inverse of the temperature, above 0 (CLIP learns its logarithm).
        image_group: what each picture shows.
        text_group: what each text is about.
        chunk_rows: searching rows per piece; a piece holds [chunk_rows, k] similarities and is computed again in the
            backward pass, so memory grows with chunk_rows * k and not with q * k. 0 takes all rows at once.

    Returns:
        "image_to_text" and "text_to_image": mean over the rows that have a positive; "loss": mean of the two.

    Raises:
        InputError: no picture of the batch has a text in it, or chunk_rows is negative.
    """
    if chunk_rows < 0:
        raise InputError(f"chunk_rows is {chunk_rows}", "0 (all at once) or a number of rows", "give 0 or more")
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text, logit_scale = image.to(dtype), text.to(dtype), logit_scale.to(dtype)
        all_image, all_text = gather_with_gradient(image), gather_with_gradient(text)
        all_image_group, all_text_group = gather_with_gradient(image_group), gather_with_gradient(text_group)
        image_rows = int(torch.isin(all_image_group, all_text_group).sum())
        text_rows = int(torch.isin(all_text_group, all_image_group).sum())
        if not image_rows:
            raise InputError("no picture of the batch shares its group with a text", "pairs", "collate texts along")
        image_sum = _summed_loss(image * logit_scale, all_text, image_group, all_text_group, chunk_rows)
        text_sum = _summed_loss(text * logit_scale, all_image, text_group, all_image_group, chunk_rows)
        # Each process holds the loss of its own rows, as W-fold share: the mean over processes is the whole.
        image_to_text = _mean_value(image_sum * (world_size() / image_rows))
        text_to_image = _mean_value(text_sum * (world_size() / text_rows))
    return {
        "image_to_text": image_to_text,
        "text_to_image": text_to_image,
        "loss": (image_to_text + text_to_image) / 2,
    }


def _summed_loss(
    query: Float[Tensor, "q e"],
    key: Float[Tensor, "k e"],
    query_group: Int[Tensor, " q"],
    key_group: Int[Tensor, " k"],
    chunk_rows: int,
) -> Float[Tensor, ""]:
    """Sum over searching rows, in pieces of `chunk_rows`."""
    if not 0 < chunk_rows < len(query):
        return _piece_loss(query, key, query_group, key_group)
    pieces = zip(torch.split(query, chunk_rows), torch.split(query_group, chunk_rows), strict=True)
    losses = [
        checkpoint(_piece_loss, rows, key, group, key_group, use_reentrant=False, preserve_rng_state=False)
        for rows, group in pieces
    ]
    return torch.stack(losses).sum()


def _piece_loss(
    query: Float[Tensor, "q e"], key: Float[Tensor, "k e"], query_group: Int[Tensor, " q"], key_group: Int[Tensor, " k"]
) -> Float[Tensor, ""]:
    logits = query @ key.T
    is_positive: Bool[Tensor, "q k"] = query_group[:, None] == key_group
    count = is_positive.sum(1)
    positive = torch.where(is_positive, logits, 0).sum(1) / count.clamp_min(1)
    return torch.where(count > 0, logits.logsumexp(1) - positive, 0).sum()


def _mean_value(local: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The value becomes the mean over processes; the gradient stays that of this process's share."""
    if world_size() == 1:
        return local
    mean = gather_with_gradient(local.detach()[None]).mean()
    return local + (mean - local.detach())
