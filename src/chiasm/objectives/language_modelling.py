"""Captioning loss: cross-entropy of each next word (teacher forcing)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def next_word(
    logits: Float[Tensor, "n l v"], target: Int[Tensor, "n l"], is_real: Bool[Tensor, "n l"]
) -> dict[str, Tensor]:
    """Mean cross-entropy over the real words of the batch.

    Args:
        logits: at position i, scores for the word that follows words 0..i; computed in float32 (float64 for float64).
        target: the word that follows, already shifted by one.
        is_real: True where `target` is a word and not padding.

    Returns:
        {"loss": scalar}, in nats a word; zero with a zero gradient where no word is real.
    """
    wide = logits[is_real].to(torch.promote_types(logits.dtype, torch.float32))
    return {"loss": F.cross_entropy(wide, target[is_real], reduction="sum") / is_real.sum().clamp_min(1)}
