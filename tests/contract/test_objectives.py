"""The contract of losses over every objective."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.objectives.additive import additive_contrast
from chiasm.objectives.answer import IGNORED, answer_classification, soft_answer_classification
from chiasm.objectives.checks import check_objective
from chiasm.objectives.contrastive import HardNegatives, distilled_contrast, softmax_contrast
from chiasm.objectives.distillation import vector_distillation
from chiasm.objectives.language_modelling import next_word
from chiasm.objectives.masked_language_modelling import distilled_words, masked_words
from chiasm.objectives.matching import image_text_matching, word_patch_alignment
from chiasm.objectives.sigmoid import sigmoid_contrast
from chiasm.objectives.weighting import uncertainty_weighted

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
KEYED = {**CONTRAST, "text_key": torch.tensor([5, 3, 5, 4, 3])}
KEYED_ROWS = {**CONTRAST_ROWS, "text_key": "texts"}
SWAPPED = {
    **KEYED,
    "wrong": F.normalize(numbers(5, 6, seed=8), dim=-1),
    "wrong_key": torch.tensor([9, 5, 8, 7, 6]),
    "is_wrong": torch.tensor([1, 1, 0, 1, 1]).bool(),
}
SWAPPED_ROWS = {**KEYED_ROWS, "wrong": "texts", "wrong_key": "texts", "is_wrong": "texts"}
AGREED = {
    "student": F.normalize(numbers(5, 6), dim=-1),
    "teacher": F.normalize(numbers(5, 6, seed=1), dim=-1),
    "has_teacher": torch.tensor([1, 0, 1, 1, 0]).bool(),
}
TAUGHT = {
    **{name: value for name, value in KEYED.items() if name != "logit_scale"},
    "image_teacher": F.normalize(numbers(4, 6, seed=2), dim=-1),
    "text_teacher": F.normalize(numbers(5, 6, seed=3), dim=-1),
}
ADDED = {name: CONTRAST[name] for name in ("image", "text", "logit_scale", "image_group")} | {
    "image_index": torch.tensor([2, 0, 1, 1, 3])
}
HIDDEN = {"logits": WORDS["logits"], "target": WORDS["target"], "is_masked": WORDS["is_real"]}
HIDDEN_ROWS = {"logits": "texts", "target": "texts", "is_masked": "texts"}
SCORED = {
    "logits": ANSWERS["logits"],
    "score": numbers(6, 5, seed=4).sigmoid(),
    "is_known": torch.tensor([1, 1, 0, 1, 0, 1]).bool(),
}
PAIRS = {"logits": numbers(5, 2) * 3, "is_match": torch.tensor([1, 0, 0, 1, 0]).bool()}
ALIGNED = {
    # Words near one patch each, so that the transport plan is clear cut: only there is it the same a step aside, as
    # finite differences need it.
    "text_values": torch.eye(4, dtype=torch.float64)[torch.tensor([[0, 1, 3], [2, 0, 3], [1, 2, 0]])]
    + numbers(3, 3, 4, seed=5) / 20,
    "image_values": torch.eye(4, dtype=torch.float64)[:3].expand(3, 3, 4) * 2 + numbers(3, 3, 4, seed=6) / 20,
    "text_is_real": torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1]]).bool(),
    "image_is_real": torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1]]).bool(),
    "is_match": torch.tensor([1, 0, 1]).bool(),
}
WEIGHED = {
    "one": torch.tensor(2.5, dtype=torch.float64),
    "other": torch.tensor(0.4, dtype=torch.float64),
    "one_log": torch.tensor(0.3, dtype=torch.float64),
    "other_log": torch.tensor(-1.0, dtype=torch.float64),
}


def among_swaps(wrong: Tensor, wrong_key: Tensor, is_wrong: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
    return softmax_contrast(**inputs, chunk_rows=3, hard_negatives=HardNegatives(wrong, wrong_key, is_wrong))


def weighed(one: Tensor, other: Tensor, one_log: Tensor, other_log: Tensor) -> dict[str, Tensor]:
    return uncertainty_weighted({"one": one, "other": other}, {"one": one_log, "other": other_log})


OBJECTIVES: dict[str, tuple[Objective, dict[str, Tensor], dict[str, str]]] = {
    "softmax_contrast": (softmax_contrast, CONTRAST, CONTRAST_ROWS),
    "softmax_contrast, equal sentences": (partial(softmax_contrast, chunk_rows=2), KEYED, KEYED_ROWS),
    "softmax_contrast, hard negatives": (among_swaps, SWAPPED, SWAPPED_ROWS),
    "vector_distillation": (vector_distillation, AGREED, dict.fromkeys(AGREED, "texts")),
    "sigmoid_contrast": (sigmoid_contrast, KEYED | {"logit_bias": -2 * numbers(1).abs()[0]}, KEYED_ROWS),
    "additive_contrast": (additive_contrast, ADDED, {"text": "texts", "image_index": "texts"}),
    "distilled_contrast": (
        # The scale also makes the teacher's target, through which it gets no gradient: differences would see it.
        partial(distilled_contrast, alpha=0.4, logit_scale=CONTRAST["logit_scale"]),
        TAUGHT,
        KEYED_ROWS | {"image_teacher": "pictures", "text_teacher": "texts"},
    ),
    "answer_classification": (answer_classification, ANSWERS, {"logits": "questions", "answer": "questions"}),
    "answer_classification, smooth": (partial(answer_classification, label_smoothing=0.1), ANSWERS, {}),
    "soft_answer_classification": (soft_answer_classification, SCORED, dict.fromkeys(SCORED, "questions")),
    "next_word": (next_word, WORDS, {"logits": "captions", "target": "captions", "is_real": "captions"}),
    "next_word, smooth": (partial(next_word, label_smoothing=0.1), WORDS, {}),
    "masked_words": (masked_words, HIDDEN, HIDDEN_ROWS),
    "distilled_words": (
        partial(distilled_words, alpha=0.4),
        HIDDEN | {"teacher_logits": numbers(3, 4, 7, seed=7)},
        HIDDEN_ROWS | {"teacher_logits": "texts"},
    ),
    "image_text_matching": (image_text_matching, PAIRS, dict.fromkeys(PAIRS, "pairs")),
    "word_patch_alignment": (word_patch_alignment, ALIGNED, dict.fromkeys(ALIGNED, "pairs")),
    "uncertainty_weighted": (weighed, WEIGHED, {}),
}
CONSTANT = {
    "distilled_contrast": ("image_teacher", "text_teacher"),
    "distilled_words": ("teacher_logits",),
    "vector_distillation": ("teacher",),
    "soft_answer_classification": ("score",),
}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_contract_holds(name: str) -> None:
    """Guards every loss against the bugs named in `check_objective`."""
    check_objective(*OBJECTIVES[name], CONSTANT.get(name, ()))


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


def test_the_contract_finds_a_taught_teacher() -> None:
    """The null control of `constant`: a teacher that is trained along with its pupil is found."""
    inputs = {"logits": numbers(3, 4), "teacher": numbers(3, 4, seed=1)}

    def careless(logits: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        return {"loss": -(teacher.softmax(1) * logits.log_softmax(1)).sum()}

    with pytest.raises(AssertionError, match="a gradient reaches teacher"):
        check_objective(careless, inputs, {}, constant=("teacher",))
