"""Masked language modelling: predict masked words from the rest of the text and the image.

Devlin et al. 2019, "BERT", section 3.1 and appendix A.1; with a teacher's soft targets as in ALBEF (Li et al. 2021,
section 3.3, equation 7). `language_modelling` predicts each next word instead.

Axis legend: m texts, l tokens, s special tokens, v words of the vocabulary; `*words` is any shape of positions, [m, l]
or the masked ones alone.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.distributed import mean_over_terms
from chiasm.core.errors import InputError
from chiasm.core.shared_draws import RowDraws
from chiasm.objectives.distillation import check_share, teacher_cross_entropy

_MASKED_SHARE, _REPLACED_SHARE = 0.8, 0.1


class MaskedWords(NamedTuple):
    """Masked inputs, targets, and the positions that are predicted.

    Attributes:
        inputs: int64 [m, l], ids with some words hidden.
        target: int64 [m, l], the ids as they were.
        is_masked: bool [m, l], True where the word is predicted, whether it was masked, replaced or kept.
    """

    inputs: Tensor
    target: Tensor
    is_masked: Tensor


@torch.no_grad()
def mask_words(
    ids: Int[Tensor, "m l"],
    is_real: Bool[Tensor, "m l"],
    special_ids: Int[Tensor, " s"],
    mask_id: int,
    vocabulary: int,
    share: float,
) -> MaskedWords:
    """Choose words to predict, and mask most of them.

    Each word is chosen with probability `share`, and at least one in a text that has any. Of those chosen, 80 % are
    replaced by the mask token, 10 % by a random word, and 10 % stay as they are, so that the mask does
    not show which positions are predicted (Devlin et al. 2019, appendix A.1). Torch's global generator draws; several
    processes share one (`core.shared_draws`).

    Args:
        ids: token ids in [0, vocabulary).
        is_real: True where the token is not padding.
        special_ids: tokens that are no words (start, end, padding, unknown, mask): never chosen, never drawn.
        mask_id: the mask token; never drawn as a word either.
        vocabulary: number of token ids.
        share: in (0, 1]; BERT takes 0.15.

    Raises:
        InputError: share is outside (0, 1], or the vocabulary has special tokens alone.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of masked words is {share}", "a number in (0, 1]", "BERT takes 0.15")
    special = F.pad(special_ids.to(ids.device), (0, 1), value=mask_id)
    every = torch.arange(vocabulary, device=ids.device)
    words = every[~torch.isin(every, special)]
    if not len(words):
        raise InputError(f"all {vocabulary} tokens are special", "a vocabulary with words", "train the tokenizer")
    is_word = is_real & ~torch.isin(ids, special)
    draws = RowDraws(ids)
    lot = draws.uniform().masked_fill(~is_word, torch.inf)
    is_first = lot == lot.amin(1, keepdim=True) if ids.shape[1] else is_word
    is_masked = is_word & ((lot < share) | is_first)
    fate = draws.uniform()
    drawn = words[draws.below(len(words))]
    other = torch.where(fate < _MASKED_SHARE + _REPLACED_SHARE, drawn, ids)
    hidden = torch.where(fate < _MASKED_SHARE, mask_id, other)
    return MaskedWords(torch.where(is_masked, hidden, ids), ids, is_masked)


def masked_words(
    logits: Float[Tensor, "*words v"], target: Int[Tensor, "*words"], is_masked: Bool[Tensor, "*words"] | None = None
) -> dict[str, Tensor]:
    """Mean cross-entropy over the masked words of all processes.

    Args:
        logits: scores of the vocabulary, at all positions [m, l, v], or at the masked ones alone [r, v] with
            `target[is_masked]`, which saves the vocabulary's product elsewhere; computed in float32 (float64 for
            float64).
        target: the words as they were.
        is_masked: True where the word counts; None where all of those passed do.

    Returns:
        {"loss": scalar}, in nats a word; zero with a zero gradient where no word is masked.
    """
    if is_masked is not None:
        logits, target = logits[is_masked], target[is_masked]
    total = F.cross_entropy(_rows(logits), target.flatten(), reduction="sum")
    return {"loss": mean_over_terms(total, target.numel())}


def distilled_words(
    logits: Float[Tensor, "*words v"],
    teacher_logits: Float[Tensor, "*words v"],
    target: Int[Tensor, "*words"],
    is_masked: Bool[Tensor, "*words"] | None = None,
    *,
    alpha: float,
) -> dict[str, Tensor]:
    """`masked_words` towards `alpha * the teacher's distribution + (1 - alpha) * the word that was there`.

    ALBEF's equation 7, up to the teacher's entropy (see `distillation`): other words may fit the gap too. No gradient
    reaches the teacher; with alpha 0 it is `masked_words`.

    Args:
        logits: as in `masked_words`.
        teacher_logits: the teacher's scores at the same positions, from the same masked inputs.
        target: the words as they were.
        is_masked: True where the word counts; None where all of those passed do.
        alpha: the teacher's share of the target, in [0, 1].

    Returns:
        "hard" and "soft": mean cross-entropy towards the word and towards the teacher; "loss": their mixture.

    Raises:
        InputError: alpha is outside [0, 1].
    """
    check_share(alpha)
    if is_masked is not None:
        logits, teacher_logits, target = logits[is_masked], teacher_logits[is_masked], target[is_masked]
    hard = masked_words(logits, target)["loss"]
    soft = mean_over_terms(teacher_cross_entropy(_rows(logits), _rows(teacher_logits)).sum(), target.numel())
    return {"hard": hard, "soft": soft, "loss": (1 - alpha) * hard + alpha * soft}


def _rows(logits: Float[Tensor, "*words v"]) -> Float[Tensor, "r v"]:
    return logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
