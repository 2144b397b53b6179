"""Losses of pixels against slow loops in float64, and the weights that a background gets."""

import math

import pytest
import torch
from torch import Tensor

from chiasm.models.encoders.image_codes import EPSILON
from chiasm.objectives.checks import check_objective
from chiasm.objectives.pixel_loss import BETA, background_weights, logit_laplace, reconstruction_loss, smooth_l1


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_logit_laplace(mu: float, scale: float, pixel: float) -> float:
    """-ln of 1 / (2 b x (1 - x)) exp(-|logit x - mu| / b)."""
    x = (1 - 2 * EPSILON) * pixel + EPSILON
    density = 1 / (2 * scale * x * (1 - x)) * math.exp(-abs(math.log(x / (1 - x)) - mu) / scale)
    return -math.log(density)


def test_the_likelihood_is_that_of_a_slow_loop() -> None:
    """Guards against a density of the logit that is not turned into one of the pixel."""
    mu, log_scale, pixels = 4 * numbers(2, 3, 4, 5) - 2, numbers(2, 3, 4, 5, seed=1) - 1, numbers(2, 3, 4, 5, seed=2)
    found = logit_laplace(mu, log_scale, pixels, EPSILON)
    for place in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 3, 1)]:
        expected = slow_logit_laplace(float(mu[place]), math.exp(log_scale[place]), float(pixels[place]))
        assert found[place].item() == pytest.approx(expected, rel=1e-12)


def test_the_density_has_an_integral_of_one() -> None:
    """Guards against a lost factor: over x from 0 to 1 the density of the squeezed pixel sums to 1."""
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    pixels = (x - EPSILON) / (1 - 2 * EPSILON)
    mu, log_scale = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    density = (-logit_laplace(mu.expand(1, 1, 1, 200_000), log_scale.expand(1, 1, 1, 200_000),
                              pixels.view(1, 1, 1, -1), EPSILON)).exp()  # fmt: skip
    assert density.mean().item() == pytest.approx(1, abs=1e-4)


def test_a_scale_below_the_least_one_counts_as_that_and_can_come_back() -> None:
    """Guards against a likelihood without a maximum, and against a clamp that stops the gradient."""
    least = math.log(4 * (1 - 2 * EPSILON) / 255)
    log_scale = torch.full((1, 1, 1, 1), least - 5, dtype=torch.float64, requires_grad=True)
    pixels = numbers(1, 1, 1, 1)
    found = logit_laplace(torch.zeros(1, 1, 1, 1, dtype=torch.float64), log_scale, pixels, EPSILON)
    assert found.item() == pytest.approx(slow_logit_laplace(0.0, math.exp(least), pixels.item()))
    found.backward()
    assert log_scale.grad is not None and log_scale.grad.item() < 0  # a wider scale is better


def test_smooth_l1_is_squared_near_and_linear_far() -> None:
    """Guards against a threshold in other units."""
    image = torch.tensor([0.5, 0.5 + BETA / 2, 0.5 + 3 * BETA], dtype=torch.float64).view(1, 1, 1, 3)
    found = smooth_l1(image, torch.full((1, 1, 1, 3), 0.5, dtype=torch.float64))
    assert found.flatten().tolist() == pytest.approx([0, 0.5 * 0.25, 2.5])


def test_a_background_gets_its_share_and_no_more() -> None:
    """Guards against weights that change the size of the loss, or an image without background."""
    image = torch.full((3, 3, 10, 10), 0.9)
    image[0, :, :2, :5] = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0))  # 90 of 100 are background
    image[1] = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(1))
    weights = background_weights(image, 0.5)
    assert weights.shape == (3, 1, 10, 10)
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(3), atol=1e-5)
    behind = torch.ones(10, 10, dtype=torch.bool)
    behind[:2, :5] = False
    assert weights[0, 0][behind].sum().item() == pytest.approx(50, rel=1e-4)
    assert torch.equal(weights[1], torch.ones(1, 10, 10)) and torch.equal(weights[2], torch.ones(1, 10, 10))
    assert torch.equal(background_weights(image, 1.0), torch.ones(3, 1, 10, 10))


def test_the_loss_holds_the_contract_of_objectives() -> None:
    """Guards against sums in bfloat16, and images that count by their place in the batch."""
    inputs = {"losses": numbers(4, 3, 2, 5), "weights": numbers(4, 1, 2, 5, seed=1), "penalty": numbers(4, 6, seed=2)}
    check_objective(reconstruction_loss, inputs, {"losses": "n", "weights": "n", "penalty": "n"})


@pytest.mark.parametrize(("batch", "places"), [(1, 4), (8, 4), (8, 64)])
def test_no_part_grows_with_batch_or_places(batch: int, places: int) -> None:
    """Guards against a penalty that is summed over batch and places beside a mean over pixels."""
    terms = reconstruction_loss(
        torch.full((batch, 3, 4, 4), 0.5), torch.ones(batch, 1, 4, 4), torch.full((batch, places), 0.25)
    )
    assert [terms[name].item() for name in ("pixels", "penalty", "loss")] == [0.5, 0.25, 0.75]
