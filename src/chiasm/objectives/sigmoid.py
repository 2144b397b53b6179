"""Image-text contrast by pairs: each image and text of the batch either belong together or do not (SigLIP).

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1 and algorithm 1. `contrastive` compares
each row with all others instead.

Axis legend: n images and m texts of this process, q rows that search, k rows that are searched (those of all
processes), e numbers of an embedding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient, mean_over_terms
from chiasm.objectives.similarity import is_positive, pair_up, sum_in_pieces


def sigmoid_contrast(
    image: Float[Tensor, "n e"],
    text: Float[Tensor, "m e"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
    image_group: Int[Tensor, " n"],
    text_group: Int[Tensor, " m"],
    chunk_rows: int = 0,
    text_key: Int[Tensor, " m"] | None = None,
) -> dict[str, Tensor]:
    """Sum over all pairs of `-log sigmoid(y_ij (logit_scale * <image_i, text_j> + logit_bias))`, for each image.

    `y_ij` is 1 where image i and text j belong together, which may be several times a row, and -1 elsewhere. The
    sum is divided by the number of images. A pair's loss does not depend on the other rows, so rows without a
    positive count as negatives, and a batch without any pair has a loss too.

    Precision, several processes and positives are as in `contrastive.softmax_contrast`.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: factor on the cosine, above 0; SigLIP starts at 10 and learns its logarithm.
        logit_bias: added to all similarities; SigLIP starts at -10, because nearly all pairs are negative.
        image_group: what each image shows.
        text_group: what each text is about.
        chunk_rows: images per piece, see `similarity.sum_in_pieces`; 0 chooses it by the sizes.
        text_key: which sentence each text is; texts of equal key are the same sentence.

    Returns:
        "positive" and "negative": the part of either kind of pair; "loss": their sum.

    Raises:
        InputError: chunk_rows is negative.
    """
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        to_text, _ = pair_up(image_group, text_group, text_key)
        rows = (image.to(dtype) * logit_scale.to(dtype), to_text.query)
        whole = (gather_with_gradient(text.to(dtype)), to_text.key, to_text.link, logit_bias.to(dtype))
        parts = mean_over_terms(sum_in_pieces(_summed_pairs, chunk_rows, rows, whole), len(image))
    return {"positive": parts[0], "negative": parts[1], "loss": parts.sum()}


def _summed_pairs(
    query: Float[Tensor, "q e"],
    query_label: Int[Tensor, " q"],
    key: Float[Tensor, "k e"],
    key_label: Int[Tensor, " k"],
    link: Int[Tensor, "2 l"] | None,
    logit_bias: Float[Tensor, ""],
) -> Float[Tensor, "2"]:
    logits = query @ key.T + logit_bias
    positive = is_positive(query_label, key_label, link)
    loss = -F.logsigmoid(torch.where(positive, logits, -logits))
    return torch.stack([torch.where(positive, loss, 0).sum(), torch.where(positive, 0, loss).sum()])
