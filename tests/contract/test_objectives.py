"""The contract of losses over every objective."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.objectives.answer import IGNORED, answer_classification
from chiasm.objectives.checks import check_objective
from chiasm.objectives.contrastive import softmax_contrast
from chiasm.objectives.language_modelling import next_word

Objective = Callable[..., dict[str, Tensor]]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONTRAST = {
    "image": F.normalize(numbers(4, 6), dim=-1),
    "text": F.normalize(numbers(5, 6, seed=1), dim=-1),
    "logit_scale": torch.tensor(7.0, dtype=torch.float64),
    "image_group": torch.tensor([0, 1, 2, 0]),
    "text_group": torch.tensor([2, 0, 1, 1, 9]),
}
CONTRAST_ROWS = {"image": "pictures", "image_group": "pictures", "text": "texts", "text_group": "texts"}
WORDS = {
    "logits": numbers(3, 4, 7) * 4,
    "target": torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(2)),
    "is_real": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool),
}
ANSWERS = {"logits": numbers(6, 5) * 4, "answer": torch.tensor([0, 4, IGNORED, 2, 2, IGNORED])}
OBJECTIVES: dict[str, tuple[Objective, dict[str, Tensor], dict[str, str]]] = {
    "softmax_contrast": (softmax_contrast, CONTRAST, CONTRAST_ROWS),
    "answer_classification": (answer_classification, ANSWERS, {"logits": "questions", "answer": "questions"}),
    "next_word": (next_word, WORDS, {"logits": "captions", "target": "captions", "is_real": "captions"}),
}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_contract_holds(name: str) -> None:
    """Guards every loss against the bugs named in `check_objective`."""
    check_objective(*OBJECTIVES[name])


def bf16_inside(logits: Tensor, answer: Tensor) -> dict[str, Tensor]:
    return {
        "loss": F.cross_entropy(logits, answer, ignore_index=IGNORED).to(
            torch.promote_types(logits.dtype, torch.float32)
        )
    }


def detached(logits: Tensor, answer: Tensor) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(logits * logits.detach().abs().mean(), answer, ignore_index=IGNORED)}


def first_row_counts_double(logits: Tensor, answer: Tensor) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), answer) + logits[0, 0]}


def not_reduced(logits: Tensor, answer: Tensor) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(logits, answer, reduction="none")}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (bf16_inside, "not summed in float32"),
        (detached, "differences"),
        (first_row_counts_double, "order of questions|float32"),
        (not_reduced, "no scalar"),
        (lambda logits, answer: {"total": logits.sum()}, 'named "loss"'),
        (lambda logits, answer: {"loss": logits.sum() * float("nan")}, "is nan"),
        (lambda logits, answer: {"loss": logits.detach().sum().requires_grad_()}, "gets no gradient"),
    ],
)
def test_the_contract_finds_a_broken_loss(objective: Objective, message: str) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    with pytest.raises(AssertionError, match=message):
        check_objective(objective, ANSWERS, {"logits": "questions", "answer": "questions"})
