"""Captioning loss: cross-entropy of each next word (teacher forcing)."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def next_word(
    logits: Float[Tensor, "n l v"], target: Int[Tensor, "n l"], is_real: Bool[Tensor, "n l"]
) -> dict[str, Tensor]:
    """Mean cross-entropy over the real words of the batch.

    Args:
        logits: at position i, scores for the word that follows words 0..i; computed in float32.
        target: the word that follows, already shifted by one.
        is_real: True where `target` is a word and not padding.

    Returns:
        {"loss": scalar}, in nats a word.
    """
    return {"loss": F.cross_entropy(logits[is_real].float(), target[is_real])}
