"""Answer classification: cross-entropy over a fixed answer vocabulary."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100
"""Target of a question whose answer is not in the vocabulary: it teaches nothing, and counts as wrong in scores."""


def answer_classification(logits: Float[Tensor, "m a"], answer: Int[Tensor, " m"]) -> dict[str, Tensor]:
    """Mean cross-entropy over the questions whose answer is known.

    Args:
        logits: a score for each answer of the vocabulary; computed in float32 (float64 for float64).
        answer: index of the right answer, or `IGNORED`.

    Returns:
        {"loss": scalar}; zero with a zero gradient where every answer is ignored.
    """
    count = (answer != IGNORED).sum().clamp_min(1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, answer, ignore_index=IGNORED, reduction="sum")
    return {"loss": total / count}
