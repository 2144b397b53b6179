"""Answer classification over a fixed answer vocabulary: one right answer, or a score for each of several.

Means are those over the questions of all processes (`core.distributed.mean_over_terms`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.core.distributed import mean_over_terms
from chiasm.objectives.distillation import check_share, teacher_cross_entropy

IGNORED = -100
"""Target of a question whose answer is not in the vocabulary: ignored by the loss, wrong in scores."""


def answer_classification(
    logits: Float[Tensor, "m a"], answer: Int[Tensor, " m"], label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Mean cross-entropy over the questions whose answer is known.

    Args:
        logits: a score for each answer of the vocabulary; computed in float32 (float64 for float64).
        answer: index of the right answer, or `IGNORED`.
        label_smoothing: share of the target that is spread evenly over all answers, in [0, 1) (Szegedy et al. 2016,
            "Rethinking the Inception Architecture", section 7).

    Returns:
        {"loss": scalar}; zero with a zero gradient where every answer is ignored.
    """
    count = (answer != IGNORED).sum()
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(wide, answer, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return {"loss": mean_over_terms(total, count)}


def distilled_answer_classification(
    logits: Float[Tensor, "m a"],
    teacher_logits: Float[Tensor, "m a"],
    answer: Int[Tensor, " m"],
    alpha: float,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """(1 - alpha) `answer_classification` + alpha cross-entropy towards the teacher's answers (Hinton et al. 2015).

    The teacher also answers questions whose right answer is not in the vocabulary, so these count in its part. Its
    temperature is 1. Neither part reaches the teacher.

    Args:
        logits: as there.
        teacher_logits: the teacher's scores of the same answers.
        answer: as there.
        alpha: the teacher's share, in [0, 1].
        label_smoothing: as there; of the hard target alone.

    Returns:
        "answer" and "teacher", both nats a question, and "loss".
    """
    check_share(alpha)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    hard = answer_classification(logits, answer, label_smoothing)["loss"]
    soft = teacher_cross_entropy(logits.to(dtype), teacher_logits.to(dtype))
    towards = mean_over_terms(soft.sum(), len(soft))
    return {"answer": hard, "teacher": towards, "loss": (1 - alpha) * hard + alpha * towards}


def soft_answer_classification(
    logits: Float[Tensor, "m a"], score: Float[Tensor, "m a"], is_known: Bool[Tensor, " m"]
) -> dict[str, Tensor]:
    """Binary cross-entropy of every answer on its own towards how right it is, for questions with several answers.

    Summed over answers and averaged over known questions (Teney et al. 2018, "Tips and Tricks for Visual Question
    Answering"; ViLT, which calls it the mean over answers times their number). Unlike a softmax, answers
    do not compete, and a question without a right answer in the vocabulary is a target of zeros.

    Args:
        logits: a score for each answer of the vocabulary; computed in float32 (float64 for float64). Probabilities
            are `logits.sigmoid()`.
        score: how right each answer is, in [0, 1]: VQAv2 takes min(annotators who gave it / 3, 1). No gradient
            reaches it.
        is_known: True where the question counts in the loss, also where its scores are all 0.

    Returns:
        {"loss": scalar}; zero with a zero gradient where no question is known.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    rows = F.binary_cross_entropy_with_logits(logits.to(dtype), score.detach().to(dtype), reduction="none").sum(1)
    return {"loss": mean_over_terms(torch.where(is_known, rows, 0).sum(), is_known.sum())}
