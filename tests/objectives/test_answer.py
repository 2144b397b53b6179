"""Answers with a teacher, against a slow loop in float64."""

import math

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.objectives.answer import IGNORED, distilled_answer_classification


def slow(logits: torch.Tensor, teacher: torch.Tensor, answer: torch.Tensor, alpha: float) -> float:
    hard, soft, known = 0.0, 0.0, 0
    for row, theirs, right in zip(logits.tolist(), teacher.tolist(), answer.tolist(), strict=True):
        whole, their_whole = sum(map(math.exp, row)), sum(map(math.exp, theirs))
        logs = [one - math.log(whole) for one in row]
        soft -= sum(math.exp(one) / their_whole * log for one, log in zip(theirs, logs, strict=True))
        if right != IGNORED:
            hard, known = hard - logs[right], known + 1
    return (1 - alpha) * hard / max(known, 1) + alpha * soft / len(logits)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_teachers_share_is_mixed_in_and_it_gets_no_gradient(alpha: float) -> None:
    """Guards against a teacher that is trained, and unknown answers that are left out of its part."""
    torch.manual_seed(0)
    logits, teacher = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    answer = torch.tensor([0, 3, IGNORED, 2, 2])
    loss = distilled_answer_classification(logits, teacher, answer, alpha)["loss"]
    assert loss.item() == pytest.approx(slow(logits, teacher, answer, alpha), rel=1e-12)
    loss.backward()
    assert teacher.grad is None and logits.grad is not None
    assert bool(logits.grad[2].any()) == (alpha > 0)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(InputError, match="share"):
        distilled_answer_classification(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), 1.5)
