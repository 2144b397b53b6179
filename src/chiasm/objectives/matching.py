"""Image-text matching of whole pairs, and alignment of words with patches.

Wrong pairs and the decision are those of ALBEF (Li et al. 2021, section 3.2), the alignment that of ViLT (Kim et al.
2021, section 3.2), which took it from UNITER (Chen et al. 2020, section 3.2 and appendix).

Axis legend: n rows, k candidates, r pairs, l words, p patches, d numbers a token.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.distributed import mean_over_terms
from chiasm.core.shared_draws import shared_generator

NOTHING_WRONG = -1
"""Stands for a negative in a row that every candidate fits."""
_PROXIMITY = 0.5
_PROXIMAL_STEPS = 50


@torch.no_grad()
def draw_negatives(similarity: Float[Tensor, "n k"], is_positive: Bool[Tensor, "n k"], hard: bool) -> Int[Tensor, " n"]:
    """Draw one wrong candidate for each row, without a gradient.

    Hard negatives are drawn with the probability that the contrast gives them, the softmax over the wrong candidates
    of the row (ALBEF, section 3.2); others evenly. Candidates are those passed. Torch's global generator draws; several
    processes share one, so each passes the rows and candidates of all of them and takes its own out of what comes.

    Args:
        similarity: the logits of the contrast, cosine times logit_scale.
        is_positive: True where the candidate fits the row, and so must not be drawn (`similarity.is_positive`).
        hard: draw by similarity.

    Returns:
        int64 in [0, k), or `NOTHING_WRONG` in a row where every candidate fits.
    """
    if not similarity.numel():
        return torch.full((len(similarity),), NOTHING_WRONG, device=similarity.device)
    has_negative = ~is_positive.all(1)
    scores = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    scores = (scores if hard else torch.zeros_like(scores)).masked_fill(is_positive, -torch.inf)
    # A row that fits everything takes part in the draw, so that it does not shift those of other rows.
    weights = scores.masked_fill(~has_negative[:, None], 0).softmax(1)
    drawn = torch.multinomial(weights, 1, generator=shared_generator(weights.device))[:, 0]
    return drawn.masked_fill(~has_negative, NOTHING_WRONG)


def image_text_matching(logits: Float[Tensor, "r 2"], is_match: Bool[Tensor, " r"]) -> dict[str, Tensor]:
    """Cross-entropy of the decision whether a pair belongs together (ALBEF, equation 4).

    Args:
        logits: scores of "no" and "yes"; computed in float32 (float64 for float64).
        is_match: True where the pair belongs together.

    Returns:
        "matching" and "mismatching": the mean over the pairs that do and do not belong together, 0 without any;
        "loss": the mean over all pairs.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide, is_match.long(), reduction="none")
    return {
        "matching": _mean(loss[is_match]),
        "mismatching": _mean(loss[~is_match]),
        "loss": _mean(loss),
    }


def word_patch_alignment(
    text_values: Float[Tensor, "n l d"],
    image_values: Float[Tensor, "n p d"],
    text_is_real: Bool[Tensor, "n l"],
    image_is_real: Bool[Tensor, "n p"],
    is_match: Bool[Tensor, " n"],
) -> dict[str, Tensor]:
    """Lower the transport cost from words to the patches of a matching image, and raise it for others.

    The distance of a pair is what the cheapest transport between its words and its patches costs, each side with
    equal mass a token and `1 - cosine` a unit of mass. The loss is the distances of matching pairs less those of the
    others, for each pair; it may be negative. ViLT adds it with weight 0.1 to image-text matching.

    Args:
        text_values: fused word tokens.
        image_values: fused patch tokens.
        text_is_real: True where a word takes part; ViLT leaves the start and end token out, and so should the caller.
        image_is_real: True where a patch takes part.
        is_match: True where the pair belongs together.

    Returns:
        {"loss": scalar}. The gradient flows through the costs alone, not through the transport plan: at the optimum
        the plan's part is zero (envelope theorem).
    """
    with torch.autocast(text_values.device.type, enabled=False):
        dtype = torch.promote_types(text_values.dtype, torch.float32)
        words = F.normalize(text_values.to(dtype), dim=-1)
        patches = F.normalize(image_values.to(dtype), dim=-1)
        cost = 1 - words @ patches.transpose(1, 2)
        distance = (cost * transport_plan(cost, text_is_real, image_is_real)).sum((1, 2))
        return {"loss": _mean(torch.where(is_match, distance, -distance))}


@torch.no_grad()
def transport_plan(
    cost: Float[Tensor, "n l p"], text_is_real: Bool[Tensor, "n l"], image_is_real: Bool[Tensor, "n p"]
) -> Float[Tensor, "n l p"]:
    """Nearly the cheapest way to carry evenly spread mass 1 from words to patches; no gradient.

    Inexact proximal optimal transport (Xie et al. 2020, algorithm 1) with the settings of UNITER and ViLT: proximity
    0.5, 50 steps, one Sinkhorn iteration each. Each step stays close to the last plan instead of to an even one, so
    the plan converges to the optimum and not to a blurred one as plain Sinkhorn does. After the last step the mass
    that arrives at each patch is exact, that which leaves each word is so only nearly; where several plans cost
    nearly the same, the plan lies between them.

    Args:
        cost: of one unit of mass, in [0, 2] for cosines; computed in its own dtype, float32 or float64.
        text_is_real: True where a word has mass.
        image_is_real: True where a patch has mass.

    Returns:
        Mass from each word to each patch; 0 at padding, and everywhere in a row that lacks words or patches.
    """
    is_real = text_is_real[:, :, None] & image_is_real[:, None, :]
    word_mass = text_is_real / text_is_real.sum(1, keepdim=True).clamp_min(1).to(cost.dtype)
    patch_mass = image_is_real / image_is_real.sum(1, keepdim=True).clamp_min(1).to(cost.dtype)
    nearness = torch.exp(-cost / _PROXIMITY)
    plan, patch_scale = is_real.to(cost.dtype), patch_mass
    for _ in range(_PROXIMAL_STEPS):
        step = nearness * plan
        word_scale = _ratio(word_mass, (step * patch_scale[:, None, :]).sum(2))
        patch_scale = _ratio(patch_mass, (step * word_scale[:, :, None]).sum(1))
        plan = word_scale[:, :, None] * step * patch_scale[:, None, :]
    return plan


def _ratio(mass: Float[Tensor, "n _"], carried: Float[Tensor, "n _"]) -> Float[Tensor, "n _"]:
    """Mass by what is carried; 0 at padding, where both are 0."""
    return torch.where(carried > 0, mass / carried, 0)


def _mean(values: Float[Tensor, " r"]) -> Float[Tensor, ""]:
    """Over the values of all processes."""
    return mean_over_terms(values.sum(), len(values))
