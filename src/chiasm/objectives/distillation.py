"""Distillation: soft targets (ALBEF, Li et al. 2021, section 3.3) and regression to a teacher's vectors."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chiasm.core.distributed import mean_over_terms
from chiasm.core.errors import InputError


def teacher_cross_entropy(logits: Float[Tensor, "r c"], teacher_logits: Float[Tensor, "r c"]) -> Float[Tensor, " r"]:
    """Cross-entropy of each row towards the softmax of the teacher's scores; no gradient reaches the teacher.

    It is the Kullback-Leibler divergence of ALBEF's equations 6 and 7 plus the teacher's entropy, which the model
    cannot change: the gradients are the same, and the value mixes with a cross-entropy towards hard targets.
    """
    return -(teacher_logits.detach().softmax(1) * logits.log_softmax(1)).sum(1)


def vector_distillation(
    student: Float[Tensor, "m e"], teacher: Float[Tensor, "m e"], has_teacher: Bool[Tensor, " m"]
) -> dict[str, Tensor]:
    """Squared distance of a student's vectors to a teacher's; no gradient reaches the teacher.

    Reimers and Gurevych 2020 ("Making monolingual sentence embeddings multilingual using knowledge distillation",
    section 2, equation 1): the student's vectors of a sentence and of its translation shall both be the teacher's
    vector of the sentence. Of unit vectors the squared distance is 2 less twice their cosine. Computed in float32
    (float64 for float64 input), autocast or not.

    Args:
        student: vectors of m sentences.
        teacher: target vectors of the same sentences.
        has_teacher: rows that have a teacher; others do not count.

    Returns:
        "loss": mean over the rows of all processes that count, in [0, 4] for unit vectors; 0 with a zero gradient where
        none does.
    """
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        squared = (student.to(dtype) - teacher.detach().to(dtype)).square().sum(1)
        return {"loss": mean_over_terms(torch.where(has_teacher, squared, 0).sum(), has_teacher.sum())}


def check_share(alpha: float) -> None:
    """Check the teacher's share of a target.

    Raises:
        InputError: `alpha` is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"the teacher's share is {alpha}", "a number in [0, 1]", "ALBEF takes 0.4")
