"""Words explained by image tokens, against a slow loop in float64, and what the mixture must do."""

import math

import pytest
import torch

from chiasm.objectives.word_mixture import NULL_SHARE, SHARPNESS, word_mixture


def given(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    is_real = torch.ones(3, 4, dtype=torch.bool)
    is_real[1, 2:] = False
    return {
        "tokens": torch.randn(3, 4, 5, generator=generator, requires_grad=True),
        "is_real": is_real,
        "image_of": torch.tensor([0, 2, 2]),
        "words": torch.randn(6, 5, generator=generator),
        "counts": torch.tensor([[1, 0, 2, 0, 0, 1], [5, 5, 0, 0, 0, 0], [0, 1, 0, 1, 3, 0]]).float(),
    }


def by_hand(tokens: torch.Tensor, is_real: torch.Tensor, words: torch.Tensor, counts: torch.Tensor) -> float:
    """Example 0 has image 0, example 1 none, example 2 images 1 and 2; a loop over words and tokens."""
    tokens, words = tokens.detach().double(), words.double()
    size = float((words**2).sum(1).mean())
    used = counts[[0, 2]].double()
    frequency = used.sum(0) / used.sum()
    total = 0.0
    for row, images in ((0, [0]), (2, [1, 2])):
        for word in range(len(words)):
            seen = []
            for image in images:
                here = []
                for token in tokens[image][is_real[image]]:
                    near = [math.exp(-SHARPNESS * float(((token - one) ** 2).sum()) / (2 * size)) for one in words]
                    here.append(near[word] / sum(near))
                seen.append(sum(here) / len(here))
            mixed = NULL_SHARE * float(frequency[word]) + (1 - NULL_SHARE) * sum(seen) / len(seen)
            total -= float(counts[row, word]) * math.log(mixed)
    return total / float(used.sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_a_slow_loop(seed: int) -> None:
    """Guards against padding that counts, a sum over tokens, images of another example, and a wrong null word."""
    fields = given(seed)
    expected = by_hand(*(fields[name] for name in ("tokens", "is_real", "words", "counts")))
    assert float(word_mixture(**fields)["loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_reaches_real_tokens_and_no_word() -> None:
    """Guards against embeddings of the language model that move, and a gradient of padding or NaN in it."""
    fields = given()
    fields["words"].requires_grad_()
    word_mixture(**fields)["loss"].backward()
    gradient = fields["tokens"].grad
    assert gradient is not None and bool(gradient.isfinite().all())
    assert bool((gradient.abs().sum(-1) > 0).eq(fields["is_real"]).all()) and fields["words"].grad is None


def test_tokens_move_to_the_words_that_images_differ_in() -> None:
    """Guards against tokens that name what every text says, half of whose words here are "a".

    With s for the share that tokens give the object, the best s of log(0.25 + 0.5 (1 - s)) + log(0.0625 + 0.5 s) is
    0.6875; without a null word it is 0.5.
    """
    words = torch.eye(8)
    counts = torch.zeros(4, 8)
    counts[:, 0] = 1  # "a", in every text
    counts[torch.arange(4), torch.arange(1, 5)] = 1
    tokens = torch.zeros(4, 2, 8).requires_grad_()
    optimizer = torch.optim.Adam([tokens], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        word_mixture(tokens, torch.ones(4, 2, dtype=torch.bool), torch.arange(4), words, counts)["loss"].backward()
        optimizer.step()
    shares = (SHARPNESS * (tokens.detach() - 0.5)).softmax(-1).mean(1)
    for row in range(4):
        assert float(shares[row, row + 1]) == pytest.approx(0.6875, abs=0.02)


def test_nothing_said_is_no_loss() -> None:
    """Guards against NaN in a step without words or without images."""
    fields = given()
    silent = word_mixture(**{**fields, "counts": torch.zeros(3, 6)})["loss"]
    silent.backward()
    assert float(silent.detach()) == 0
    empty = {**fields, "tokens": torch.zeros(0, 4, 5), "is_real": torch.zeros(0, 4, dtype=torch.bool)}
    assert float(word_mixture(**{**empty, "image_of": torch.zeros(0, dtype=torch.long)})["loss"]) == 0
