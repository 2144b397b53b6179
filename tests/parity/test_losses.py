"""Losses against loops of float64 numbers."""

import math

import numpy as np
import pytest
import torch

from chiasm.objectives.answer import IGNORED, answer_classification
from chiasm.objectives.language_modelling import next_word


def minus_log_probability(scores: np.ndarray, target: int) -> float:
    largest = max(scores.tolist())
    return largest + math.log(sum(math.exp(score - largest) for score in scores.tolist())) - float(scores[target])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_answer_loss_equals_a_loop(scale: float) -> None:
    """Guards against ignored questions in the mean, and overflow at large scores."""
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    answer = [3, IGNORED, 0, 4, IGNORED, 1, 1]
    rows = zip(logits.numpy(), answer, strict=True)
    expected = [minus_log_probability(row, target) for row, target in rows if target != IGNORED]
    got = answer_classification(logits, torch.tensor(answer))["loss"]
    assert float(got) == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_questions_without_a_known_answer_teach_nothing() -> None:
    """Guards against 0 / 0 where a whole batch is outside the vocabulary, or is empty."""
    logits = torch.randn(3, 5, requires_grad=True)
    loss = answer_classification(logits, torch.full((3,), IGNORED))["loss"]
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    assert float(answer_classification(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))["loss"]) == 0


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_caption_loss_equals_a_loop(scale: float) -> None:
    """Guards against a mean over captions instead of words, and padding in it."""
    logits = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    target = torch.randint(0, 6, (3, 4), generator=torch.Generator().manual_seed(1))
    lengths = [4, 1, 2]
    expected = [
        minus_log_probability(logits[row, place].numpy(), int(target[row, place]))
        for row, length in enumerate(lengths)
        for place in range(length)
    ]
    is_real = torch.arange(4) < torch.tensor(lengths)[:, None]
    assert float(next_word(logits, target, is_real)["loss"]) == pytest.approx(sum(expected) / 7, rel=1e-12)


def test_a_batch_without_words_teaches_nothing() -> None:
    """Guards against NaN weights after a batch of pictures that nobody described."""
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = next_word(logits, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool))["loss"]
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
