"""Additive fusion in the shared space: the sum of an image and a text embedding retrieves both.

Axis legend: n images and m texts of this process, e numbers of an embedding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.distributed import gather_with_gradient, sum_over_processes
from chiasm.objectives.similarity import Pairing, pair_up, search_loss


def additive_contrast(
    image: Float[Tensor, "n e"],
    text: Float[Tensor, "m e"],
    logit_scale: Float[Tensor, ""],
    image_index: Int[Tensor, " m"],
    image_group: Int[Tensor, " n"],
    chunk_rows: int = 0,
    text_key: Int[Tensor, " m"] | None = None,
) -> dict[str, Tensor]:
    """Softmax contrast of `Z_j = normalised(image_{i(j)} + text_j)` with all images, and with all texts.

    The loss is `1/m sum_j (l_v(Z_j, I) + l_t(Z_j, T))`; l_v and l_t are cross-entropies as in
    `contrastive.softmax_contrast`, with Z in the place of the searching side only. Where the text is a question, its
    answer adds `l_q(Z_j, Q_j)`, `answer.answer_classification` on the same Z: the task "vqa" with the fusion
    `shared_sum`.

    Limitation: Z contains the vectors that it must retrieve. Where the vectors of a batch point in different
    directions at random, Z is at 45 degrees to its own image and text and far from all others: 256 random pairs of
    256 numbers at the first temperature, 0.07, have a loss of 0.033, where an even guess has 2 log 256 = 11.09. The
    loss is nearly 0 before training, and only the spread of the negatives aligns the two modalities. A small loss does
    not imply good retrieval; use `softmax_contrast` for cross-modal retrieval.

    Precision and several processes are as in `softmax_contrast`.

    Args:
        image: unit vectors.
        text: unit vectors.
        logit_scale: factor on the cosine, above 0.
        image_index: in [0, n), the image that each text belongs to.
        image_group: what each image shows. Equal groups are never negatives: all images of the group, and all
            texts of its images, are positives in equal parts.
        chunk_rows: texts per piece, see `similarity.sum_in_pieces`; 0 chooses it by the sizes.
        text_key: which sentence each text is; texts of equal key are never negatives either.

    Returns:
        "fused_to_image", "fused_to_text" and "loss": their sum.

    Raises:
        InputError: there is no text, or chunk_rows is negative.
    """
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text = image.to(dtype), text.to(dtype)
        fused = F.normalize(image[image_index] + text, dim=1) * logit_scale.to(dtype)
        group = image_group[image_index]
        texts = int(sum_over_processes([len(group)])[0])
        to_image = Pairing(group, gather_with_gradient(image_group), None, texts)
        # Z_j stands for its image: it searches texts as an image of that group does.
        to_text, _ = pair_up(group, group, text_key)
        fused_to_image = search_loss(fused, gather_with_gradient(image), to_image, chunk_rows)
        fused_to_text = search_loss(fused, gather_with_gradient(text), to_text, chunk_rows)
    return {
        "fused_to_image": fused_to_image,
        "fused_to_text": fused_to_text,
        "loss": fused_to_image + fused_to_text,
    }
