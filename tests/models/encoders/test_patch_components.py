"""Principal components and regression against numpy."""

import numpy as np
import pytest
import torch

from chiasm.models.encoders.patch_components import principal_components, regression


def patches(count: int = 500) -> torch.Tensor:
    """Patches of 12 numbers that vary in five directions."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 5, generator=generator) @ torch.randn(5, 12, generator=generator) + 3


@pytest.mark.parametrize("count", [500, 9])
def test_components_are_those_of_a_singular_value_decomposition(count: int) -> None:
    """Guards against directions that are columns, or scores whose variance is not 1, also of few patches."""
    found = principal_components(patches(count), 3)
    centred = patches(count).double().numpy() - patches(count).double().numpy().mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(found.std.numpy(), singular[:3] / np.sqrt(count), rtol=1e-6)
    for mine, theirs in zip(found.directions.numpy(), right[:3], strict=True):
        assert np.allclose(abs(mine @ theirs), 1) and mine[np.abs(mine).argmax()] > 0
    scores = found.scores(patches(count))
    assert torch.allclose(scores.T @ scores / count, torch.eye(3, dtype=torch.float64), atol=1e-5)


def test_directions_without_variance_are_left_out() -> None:
    """Guards against a division by a standard deviation of rounding errors."""
    assert len(principal_components(patches(), 12).std) == 5


def test_the_regression_is_least_squares() -> None:
    """Guards against a bias of other means, and errors of another sign."""
    generator = torch.Generator().manual_seed(1)
    inputs, noise = torch.randn(300, 4, generator=generator), torch.randn(300, 2, generator=generator)
    outputs = inputs[:, :2] * 3 + 1 + 0.1 * noise
    weight, bias, error = regression(inputs, outputs)
    wide = np.concatenate([inputs.numpy(), np.ones((300, 1))], 1)
    expected = np.linalg.lstsq(wide, outputs.numpy(), rcond=None)[0]
    assert np.allclose(weight.numpy(), expected[:4].T, atol=1e-4) and np.allclose(bias.numpy(), expected[4], atol=1e-4)
    assert np.allclose(error.numpy(), np.abs(wide @ expected - outputs.numpy()).mean(0), atol=1e-4)
