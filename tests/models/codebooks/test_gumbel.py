"""The relaxed codes of a discrete variational autoencoder against slow loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.codebooks.gumbel import GumbelConfig, GumbelQuantizer, kl_from_uniform


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_divergence(logits: list[float]) -> float:
    """Sum over codes of q ln(q / (1 / k))."""
    total = sum(math.exp(one) for one in logits)
    return sum(math.exp(one) / total * math.log(math.exp(one) / total * len(logits)) for one in logits)


def test_the_divergence_is_that_of_a_slow_loop() -> None:
    """Guards against an entropy with the wrong sign, or without ln k."""
    logits = 3 * numbers(6, 11)
    expected = [slow_divergence(row) for row in logits.double().tolist()]
    assert kl_from_uniform(logits).tolist() == pytest.approx(expected, rel=1e-5)
    assert kl_from_uniform(torch.zeros(1, 8)).item() == pytest.approx(0, abs=1e-6)
    assert kl_from_uniform(torch.tensor([[1000.0, 0, 0, 0]])).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(("batch", "positions"), [(1, 16), (8, 16), (8, 64)])
def test_the_penalty_grows_with_neither_batch_nor_positions(batch: int, positions: int) -> None:
    """Guards against a divergence that is summed over batch and positions beside a mean over pixels."""
    tested = GumbelQuantizer(GumbelConfig(codes=12, dim=3, kl_weight=0.5))
    one = numbers(1, 3)
    expected = 0.5 * slow_divergence(tested.logits(one)[0].double().tolist())
    penalty = tested(one.expand(batch * positions, 3), 0).penalty
    assert penalty.shape == (batch * positions,) and penalty.mean().item() == pytest.approx(expected, rel=1e-4)


def test_the_temperature_falls_by_the_step_and_not_by_products() -> None:
    """Guards against a factor exp(-r step) that is applied again and again, and reaches the least far too early."""
    tested = GumbelQuantizer(GumbelConfig(temperature=1.0, least_temperature=1 / 16, anneal_rate=1e-3))
    assert tested.temperature(0) == 1
    assert tested.temperature(1000) == pytest.approx(math.exp(-1))
    assert tested.temperature(10_000) == 1 / 16


def test_codes_are_drawn_as_often_as_their_probability_says() -> None:
    """Guards against noise of another distribution: the largest of logits + Gumbel noise is a draw of the softmax."""
    tested = GumbelQuantizer(GumbelConfig(codes=3, dim=2, temperature=1e-3, least_temperature=1e-3)).train()
    tested.logits.weight.data.zero_()
    tested.logits.bias.data.copy_(torch.tensor([1.0, 0.0, -1.0]))
    tested.book.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    torch.manual_seed(0)
    values = tested(torch.zeros(20_000, 2), 0).values
    expected = torch.tensor([1.0, 0.0, -1.0]).softmax(0)[:2].tolist()
    assert values.mean(0).tolist() == pytest.approx(expected, abs=0.015)


def test_the_mixture_is_that_of_a_slow_loop() -> None:
    """Guards against noise that is scaled by the temperature, or logits that are not."""
    tested = GumbelQuantizer(GumbelConfig(codes=4, dim=2, temperature=0.7, anneal_rate=0.0)).train()
    latents = numbers(3, 2)
    torch.manual_seed(5)
    values = tested(latents, 0).values
    torch.manual_seed(5)
    uniform = torch.rand(3, 4).double()
    logits, book = tested.logits(latents).detach().double(), tested.book.detach().double()
    for row in range(3):
        scores = [(float(logits[row, k]) - math.log(-math.log(float(uniform[row, k])))) / 0.7 for k in range(4)]
        total = sum(map(math.exp, scores))
        mixed = sum(math.exp(score) / total * book[k] for k, score in enumerate(scores))
        assert torch.allclose(values[row].double(), mixed, atol=2e-2)  # codes are rounded to bfloat16


def test_the_start_makes_the_nearest_centre_the_most_probable_code() -> None:
    """Guards against logits whose distances have the wrong sign, and a start that no latent agrees with."""
    tested = GumbelQuantizer(GumbelConfig(codes=8, dim=3))
    latents = numbers(200, 3)
    tested.start(latents, seed=0)
    assert torch.equal(tested.ids(latents), torch.cdist(latents, tested.book.detach()).argmin(1))
    logits = tested.logits(latents).log_softmax(1)
    assert 0.5 < logits.max(1).values.exp().mean() < 1


def test_codes_beyond_the_centres_are_near_copies() -> None:
    """Guards against codes far from all vectors, which no gradient would ever bring back."""
    tested = GumbelQuantizer(GumbelConfig(codes=10, dim=2))
    latents = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]).repeat(20, 1)
    tested.start(latents, seed=0)
    book = tested.book.detach()
    assert torch.cdist(book, latents).amin(1).max() < 1 and len(book.unique(dim=0)) == 10


def test_wrong_numbers_are_refused() -> None:
    """Guards against a division by a temperature of 0."""
    with pytest.raises(InputError, match=r"least_temperature is 0"):
        GumbelConfig(least_temperature=0.0).check("model.image.quantizer")
