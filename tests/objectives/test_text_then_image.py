"""The loss of words and image tokens: its weights, its terms, and nothing to learn from."""

import pytest
import torch

from chiasm.objectives.text_then_image import text_then_image


def given(words: int = 5, rows: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(words, 7, generator=generator, requires_grad=True),
        torch.randint(0, 7, (words,), generator=generator),
        torch.randn(rows, 3, 11, generator=generator, requires_grad=True),
        torch.randint(0, 11, (rows, 3), generator=generator),
    )


@pytest.mark.parametrize(("text", "image"), [(1.0, 7.0), (0.0, 1.0), (2.0, 2.0)])
def test_the_loss_is_the_weighted_mean(text: float, image: float) -> None:
    """Guards against a sum over tokens, swapped weights, and weights that change the size of the loss."""
    word_logits, words, code_logits, ids = given()
    terms = text_then_image(word_logits, words, code_logits, ids, text, image)

    def mean(logits: torch.Tensor, targets: torch.Tensor) -> float:
        chosen = logits.detach().double().log_softmax(-1).gather(-1, targets[..., None])
        return -float(chosen.mean())

    first, second = mean(word_logits, words), mean(code_logits, ids)
    assert terms["text"].item() == pytest.approx(first, abs=1e-6)
    assert terms["image"].item() == pytest.approx(second, abs=1e-6)
    assert terms["loss"].item() == pytest.approx((text * first + image * second) / (text + image), abs=1e-6)


def test_without_words_the_image_is_learned_still() -> None:
    """Guards against NaN in a step in which every caption was dropped."""
    word_logits, words, code_logits, ids = given(words=0)
    terms = text_then_image(word_logits, words, code_logits, ids)
    assert terms["text"].item() == 0
    terms["loss"].backward()
    assert bool(code_logits.grad.isfinite().all()) and bool(code_logits.grad.any())  # type: ignore[union-attr]


def test_nothing_is_zero_with_a_zero_gradient() -> None:
    """Guards against a process without rows that the others wait for."""
    word_logits, words, code_logits, ids = given(0, 0)
    terms = text_then_image(word_logits, words, code_logits, ids)
    assert terms["loss"].item() == 0
    terms["loss"].backward()
