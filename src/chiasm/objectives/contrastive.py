"""Image-text contrast: retrieve each image's sentences among all sentences of the batch, and the reverse.

InfoNCE of CLIP (Radford et al. 2021, figure 3) with several positives a row as in UniCL (Yang et al. 2022, "Unified
Contrastive Learning in Image-Text-Label Space", equations 3 and 4), and with a teacher's soft targets as in ALBEF (Li
et al. 2021, "Align before Fuse", section 3.3, equation 6).

Axis legend: n images and m texts of this process, q rows that search, k rows that are searched (those of all
processes), e numbers of an embedding.
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient
from chiasm.core.errors import InputError
from chiasm.objectives.distillation import check_share, teacher_cross_entropy
from chiasm.objectives.similarity import (
    Pairing,
    cross_entropy_rows,
    is_positive,
    mean_over_rows,
    pair_up,
    search_loss,
    sum_in_pieces,
)


class HardNegatives(NamedTuple):
    """For each text, a similar sentence that is false for its image, where there is one.

    A row a text.

    Attributes:
        text: unit vectors float [m, e]; rows without a hard negative are ignored.
        key: int64 [m], which sentence it is, comparable with the key of the texts.
        is_real: bool [m], True where there is one.
    """

    text: Tensor
    key: Tensor
    is_real: Tensor


def softmax_contrast(
    image: Float[Tensor, "n e"],
    text: Float[Tensor, "m e"],
    logit_scale: Float[Tensor, ""],
    image_group: Int[Tensor, " n"],
    text_group: Int[Tensor, " m"],
    chunk_rows: int = 0,
    text_key: Int[Tensor, " m"] | None = None,
    hard_negatives: HardNegatives | None = None,
) -> dict[str, Tensor]:
    """Symmetric softmax contrast in which rows of equal group are positives of each other.

    For an image i with positive texts P(i), the loss is the cross-entropy between the softmax over all texts and the
    uniform distribution over P(i): `logsumexp_j s_ij - mean_{j in P(i)} s_ij` with `s_ij = logit_scale * <image_i,
    text_j>`. With one positive a row it is CLIP's loss. Captions of one image, or two copies of an image, are
    never pushed apart as false negatives. A row without positive has no target: it is left out of its mean and still
    serves as a negative.

    Computed in float32 (float64 for float64 input), autocast or not. In several processes, rows are contrasted with
    the rows of all of them, of which each may have any number. The returned value is that of the whole batch, and after
    `all_reduce_gradients` so is the gradient.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: factor on the cosine, the inverse of the temperature, above 0 (CLIP learns its logarithm).
        image_group: what each image shows.
        text_group: what each text is about.
        chunk_rows: searching rows per piece; a piece holds [chunk_rows, k] similarities and is computed again in the
            backward pass, so memory grows with chunk_rows * k and not with q * k. 0 chooses it by k (`PIECE_PAIRS`).
        text_key: which sentence each text is; texts of equal key are the same sentence (equal captions of two
            images, the prompt of one label). An image is then positive with every text that is the same sentence
            as a text of its group, whatever group that text has.
        hard_negatives: further texts among which images search, and which belong to none (NegCLIP, Yuksekgonul et
            al. 2023, section 4); they do not search. One that is the same sentence as a text of an image is not among
            those that this image searches. Needs text_key.

    Returns:
        "image_to_text" and "text_to_image": mean over the rows that have a positive; "loss": mean of the two.

    Raises:
        InputError: no image of the batch has a text in it, chunk_rows is negative, or text_key is missing.
    """
    if hard_negatives is not None and text_key is None:
        raise InputError("hard negatives without text_key", "a key for each sentence", "pass text_key")
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text, logit_scale = image.to(dtype), text.to(dtype), logit_scale.to(dtype)
        wrong_key = None if hard_negatives is None else hard_negatives.key
        to_text, to_image = pair_up(image_group, text_group, text_key, wrong_key)
        all_image, all_text = gather_with_gradient(image), gather_with_gradient(text)
        if hard_negatives is None:
            image_to_text = search_loss(image * logit_scale, all_text, to_text, chunk_rows)
        else:
            image_to_text = _search_among_wrong(image * logit_scale, all_text, hard_negatives, to_text, chunk_rows)
        return _both_ways(image_to_text, search_loss(text * logit_scale, all_image, to_image, chunk_rows))


# More than eight arguments: those of `softmax_contrast`, and the teacher's.
def distilled_contrast(
    image: Float[Tensor, "n e"],
    text: Float[Tensor, "m e"],
    image_teacher: Float[Tensor, "n t"],
    text_teacher: Float[Tensor, "m t"],
    logit_scale: Float[Tensor, ""],
    image_group: Int[Tensor, " n"],
    text_group: Int[Tensor, " m"],
    alpha: float,
    text_key: Int[Tensor, " m"] | None = None,
    chunk_rows: int = 0,
) -> dict[str, Tensor]:
    """`softmax_contrast` with soft targets from a teacher's similarities.

    The target of a row is `alpha * softmax(teacher's similarities) + (1 - alpha) * uniform over the positives` (ALBEF,
    equation 6, up to the teacher's entropy, see `distillation`); with alpha 0 it is `softmax_contrast`. A row without
    positive is left out here too. The teacher's similarities have the same scale; no gradient reaches the teacher,
    nor the scale through it.

    The rows searched are those of the batch, of all processes, and the model's own. ALBEF also searches a queue of
    the teacher's rows of earlier batches; there is no queue here, so a small batch has few candidates for
    soft targets.

    Args:
        image: unit vectors.
        text: unit vectors.
        image_teacher: the teacher's unit vectors of the same images, of a width of their own.
        text_teacher: the teacher's unit vectors of the same texts.
        logit_scale: factor on the cosine, above 0.
        image_group: what each image shows.
        text_group: what each text is about.
        alpha: the teacher's share of the target, in [0, 1]; ALBEF raises it from 0 to 0.4 in the first epoch.
        text_key: which sentence each text is, as in `softmax_contrast`.
        chunk_rows: as in `softmax_contrast`.

    Returns:
        "image_to_text", "text_to_image" and "loss", as `softmax_contrast`.

    Raises:
        InputError: no image of the batch has a text in it, alpha is outside [0, 1], or chunk_rows is negative.
    """
    check_share(alpha)
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text, logit_scale = image.to(dtype) * logit_scale.to(dtype), text.to(dtype), logit_scale.to(dtype)
        image_teacher, text_teacher = image_teacher.to(dtype) * logit_scale, text_teacher.to(dtype)
        to_text, to_image = pair_up(image_group, text_group, text_key)
        keys = gather_with_gradient(text), gather_with_gradient(text_teacher)
        image_to_text = _soft_search((image, image_teacher), keys, to_text, alpha, chunk_rows)
        keys = gather_with_gradient(image), gather_with_gradient(image_teacher)
        text_to_image = _soft_search((text, text_teacher), keys, to_image, alpha, chunk_rows)
        return _both_ways(image_to_text, text_to_image)


def _search_among_wrong(
    query: Float[Tensor, "q e"], key: Float[Tensor, "k e"], wrong: HardNegatives, pairing: Pairing, chunk_rows: int
) -> Float[Tensor, ""]:
    """`search_loss` with the hard negatives of all processes among what is searched."""
    is_real = gather_with_gradient(wrong.is_real.long()).bool()
    columns = gather_with_gradient(wrong.text.to(key.dtype))[is_real]
    assert pairing.wrong is not None, "hard negatives have labels"
    whole = (key, pairing.key, pairing.link, columns, pairing.wrong[is_real])
    return mean_over_rows(sum_in_pieces(_summed_among_wrong, chunk_rows, (query, pairing.query), whole), pairing)


def _summed_among_wrong(
    query: Float[Tensor, "q e"],
    query_label: Int[Tensor, " q"],
    key: Float[Tensor, "k e"],
    key_label: Int[Tensor, " k"],
    link: Int[Tensor, "2 l"],
    wrong: Float[Tensor, "w e"],
    wrong_label: Int[Tensor, " w"],
) -> Float[Tensor, ""]:
    positive = is_positive(query_label, torch.cat([key_label, wrong_label]), link)
    logits = query @ torch.cat([key, wrong]).T
    # A hard negative that is also a true sentence of the image is neither positive nor negative: it is masked out.
    is_true = positive.clone()
    is_true[:, : len(key)] = False
    return cross_entropy_rows(logits.masked_fill(is_true, -torch.inf), positive & ~is_true)[0].sum()


def _soft_search(
    queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], pairing: Pairing, alpha: float, chunk_rows: int
) -> Float[Tensor, ""]:
    """The model's and the teacher's rows that search, and those that are searched -> mean cross-entropy."""
    whole = (keys[0], keys[1], pairing.key, pairing.link)
    total = sum_in_pieces(partial(_summed_soft, alpha), chunk_rows, (*queries, pairing.query), whole)
    return mean_over_rows(total, pairing)


def _summed_soft(
    alpha: float,
    query: Float[Tensor, "q e"],
    teacher_query: Float[Tensor, "q t"],
    query_label: Int[Tensor, " q"],
    key: Float[Tensor, "k e"],
    teacher_key: Float[Tensor, "k t"],
    key_label: Int[Tensor, " k"],
    link: Int[Tensor, "2 l"] | None,
) -> Float[Tensor, ""]:
    logits = query @ key.T
    hard, has_positive = cross_entropy_rows(logits, is_positive(query_label, key_label, link))
    soft = torch.where(has_positive, teacher_cross_entropy(logits, teacher_query @ teacher_key.T), 0)
    return ((1 - alpha) * hard + alpha * soft).sum()


def _both_ways(image_to_text: Float[Tensor, ""], text_to_image: Float[Tensor, ""]) -> dict[str, Tensor]:
    return {
        "image_to_text": image_to_text,
        "text_to_image": text_to_image,
        "loss": (image_to_text + text_to_image) / 2,
    }
