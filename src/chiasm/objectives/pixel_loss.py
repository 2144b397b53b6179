"""Losses of an image's reconstruction, a number for each colour of each pixel, and weights of the pixels.

Axis legend: n images, c colours, h/w height and width in pixels.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chiasm.core.distributed import mean_over_terms

BETA = 0.05
"""Difference of pixels in [0, 1] that is the unit of the smooth L1 loss."""
LEVELS = 16
"""Steps of a colour that count as one when the most frequent colour of an image is sought."""


def logit_laplace(
    location: Float[Tensor, "n c h w"],
    log_scale: Float[Tensor, "n c h w"],
    pixels: Float[Tensor, "n c h w"],
    epsilon: float,
) -> Float[Tensor, "n c h w"]:
    """Negative log likelihood, in nats, under a Laplace distribution of the pixels' logits.

    With x = (1 - 2 epsilon) pixel + epsilon, away from the ends, where a logit is infinite:
    ln(2 b x (1 - x)) + |logit(x) - mu| / b (Ramesh et al. 2021, appendix A.3).

    Args:
        location: mu.
        log_scale: ln b. Its smallest value is a step of one 255th in the middle of the range, and lower ones count as
            that: flat areas are reconstructed exactly, and their likelihood would have no maximum.
        pixels: in [0, 1].
        epsilon: above 0 and below 1/2.
    """
    within = pixels * (1 - 2 * epsilon) + epsilon
    least = math.log(4 * (1 - 2 * epsilon) / 255)
    # The gradient passes, so that a scale below the least one can come back.
    floored = log_scale + (log_scale.clamp_min(least) - log_scale).detach()
    distance = (within.logit() - location).abs()
    return math.log(2) + floored + (within * (1 - within)).log() + distance * (-floored).exp()


def smooth_l1(image: Float[Tensor, "n c h w"], pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Huber's loss of the difference in units of `BETA`: squared below 1, linear above (Girshick 2015, equation 3).

    In these units it weighs about as much as `logit_laplace` beside a quantiser's penalty.
    """
    return F.smooth_l1_loss(image / BETA, pixels / BETA, reduction="none")


def reconstruction_loss(
    losses: Float[Tensor, "n c h w"], weights: Float[Tensor, "n 1 h w"], penalty: Float[Tensor, "n l"]
) -> dict[str, Tensor]:
    """Mean over images of the weighted mean over pixels, plus the mean of the penalty over places.

    Neither part grows with the batch, the size of the images or the number of places.

    Args:
        losses: of each colour of each pixel; computed in float32 (float64 for float64).
        weights: of the pixels, with a mean of 1 in each image.
        penalty: what the quantiser adds for each place.

    Returns:
        {"pixels", "penalty", "loss"}.
    """
    count = len(losses)
    wide = losses.to(torch.promote_types(losses.dtype, torch.float32)) * weights
    pixels = mean_over_terms(wide.mean((1, 2, 3)).sum(), count)
    added = mean_over_terms(penalty.to(wide.dtype).mean(1).sum(), count)
    return {"pixels": pixels, "penalty": added, "loss": pixels + added}


def background_weights(pixels: Float[Tensor, "n c h w"], share: float) -> Float[Tensor, "n 1 h w"]:
    """Weights of mean 1 under which an image's most frequent colour has at most a share of the weight.

    An image of which 0.9 is background is reconstructed well on average by background alone, and its codes collapse
    to one. An image without a colour of more than `share` has equal weights.

    Args:
        pixels: in [0, 1].
        share: in (0, 1]; 1 weights all pixels alike.

    Returns:
        A weight a pixel, the same for all its channels. An image of a single colour has equal weights.
    """
    steps = (pixels * (LEVELS - 1)).round().long()
    powers = LEVELS ** torch.arange(pixels.shape[1], device=pixels.device)
    colour = (steps * powers[:, None, None]).sum(1).flatten(1)
    is_background = colour == colour.mode(1, keepdim=True).values
    found = is_background.float().mean(1, keepdim=True)
    is_flat = (found <= share) | (found == 1)
    behind = torch.where(is_flat, 1.0, share / found)
    before = torch.where(is_flat, 1.0, (1 - share) / (1 - found).clamp_min(1e-6))
    return torch.where(is_background, behind, before).view(len(pixels), 1, *pixels.shape[2:])
