"""Captioning loss: cross-entropy of each next word (teacher forcing)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.distributed import mean_over_terms


def next_word(
    logits: Float[Tensor, "*words v"],
    target: Int[Tensor, "*words"],
    is_real: Bool[Tensor, "*words"] | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean cross-entropy over the real words of the batch, of all processes.

    Args:
        logits: at position i, scores for the word that follows words 0..i; computed in float32 (float64 for float64).
        target: the word that follows, already shifted by one.
        is_real: True where `target` is a word and not padding; None: all that are passed are words.
        label_smoothing: share of the target that is spread evenly over the vocabulary, in [0, 1) (Szegedy et al.
            2016, "Rethinking the Inception Architecture", section 7).

    Returns:
        {"loss": scalar}, in nats a word; zero with a zero gradient where no word is real.
    """
    if is_real is None:
        is_real = torch.ones_like(target, dtype=torch.bool)
    wide = logits[is_real].to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, target[is_real], reduction="sum", label_smoothing=label_smoothing)
    return {"loss": mean_over_terms(total, is_real.sum())}
