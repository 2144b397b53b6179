"""Principal components of image patches: what an image tokenizer starts with.

A linear autoencoder's best weights are known without training (Baldi and Hornik 1989, "Neural Networks and Principal
Component Analysis"). Encoder and decoder that start as them reconstruct images from the first steps on, where from
random weights hundreds of steps show the background alone (docs/log.md).

Axis legend: m patches, p numbers of a patch, k components, d width of a vector, o outputs.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_STD = 1e-3
"""Smallest standard deviation of a component that counts, as a share of the largest: others are noise of rounding."""
RIDGE = 1e-6
"""Added to the mean square of each input of the regression."""


class Components(NamedTuple):
    """Principal components of patches, the largest first.

    Attributes:
        mean: float64 [p].
        directions: float64 [k, p], orthonormal.
        std: float64 [k], above 0, the standard deviation along each direction.
    """

    mean: Tensor
    directions: Tensor
    std: Tensor

    def scores(self, patches: Float[Tensor, "m p"]) -> Float[Tensor, "m k"]:
        """Coordinates of patches, each with a variance of 1."""
        return (patches.double() - self.mean) @ self.directions.T / self.std


def principal_components(patches: Float[Tensor, "m p"], count: int) -> Components:
    """At most `count` principal components; fewer where the patches vary in fewer directions."""
    wide = patches.double()
    mean = wide.mean(0)
    centred = (wide - mean) / len(wide) ** 0.5
    if len(wide) < wide.shape[1]:
        std, directions = torch.linalg.svd(centred, full_matrices=False)[1:]
    else:  # fewer operations
        variances, columns = torch.linalg.eigh(centred.T @ centred)
        std, directions = variances.flip(0).clamp_min(0).sqrt(), columns.flip(1).T
    known = (std > LEAST_STD * std[0])[:count].nonzero()[:, 0]
    directions = directions[known]
    # An eigenvector's sign is arbitrary: the largest number is made positive.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return Components(mean, directions * largest.sign(), std[known])


def regression(
    inputs: Float[Tensor, "m d"], outputs: Float[Tensor, "m o"]
) -> tuple[Float[Tensor, "o d"], Float[Tensor, " o"], Float[Tensor, " o"]]:
    """Least squares: weight and bias of a linear layer, and the mean absolute error of each output, float64."""
    x, y = inputs.double(), outputs.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean) / len(x)
    gram += RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, (x - x_mean).T @ (y - y_mean) / len(x)).T
    bias = y_mean - weight @ x_mean
    return weight, bias, (x @ weight.T + bias - y).abs().mean(0)
