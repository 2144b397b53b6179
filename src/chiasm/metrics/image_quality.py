"""Scores of reconstructed images: PSNR, SSIM, and how the codes are used.

Axis legend: n images, c colours, h/w height and width in pixels, l places of an image, k codes.
"""

import numpy as np
import numpy.typing as npt

from chiasm.core.random import counter_rng
from chiasm.core.types import Score
from chiasm.metrics.intervals import CONFIDENCE, proportion

LARGEST_PSNR_DB = 60.0
"""PSNR of an image that is reconstructed exactly, whose own is infinite; rounding to 8 bits alone has 58.9."""
SSIM_SIGMA_PX, SSIM_RADIUS_PX = 1.5, 5
SSIM_K1, SSIM_K2 = 0.01, 0.03
RESAMPLES = 200
"""Resamples for the interval of a number that is no mean; 200 fix its ends to about a tenth of its width."""


def psnr_db(images: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image: -10 log10 of the mean squared error, at most `LARGEST_PSNR_DB`.

    Args:
        images: [n, c, h, w] in [0, 1].
        others: of the same shape.

    Returns:
        float64 [n], in dB.
    """
    error = np.square(images - others).mean((1, 2, 3))
    decibels: npt.NDArray[np.float64] = -10 * np.log10(np.maximum(error, 10 ** (-LARGEST_PSNR_DB / 10)))
    return decibels


def ssim(images: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Structural similarity of each image: mean over colours and over all places of a whole window.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", section III: a
    Gaussian window of 11 pixels with a standard deviation of 1.5, and population variances.

    Args:
        images: [n, c, h, w] in [0, 1]; both sides at least 11 pixels.
        others: of the same shape.

    Returns:
        float64 [n], in [-1, 1].
    """
    mean, other_mean = _windowed(images), _windowed(others)
    variance = _windowed(images * images) - mean * mean
    other_variance = _windowed(others * others) - other_mean * other_mean
    covariance = _windowed(images * others) - mean * other_mean
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    top = (2 * mean * other_mean + c1) * (2 * covariance + c2)
    found: npt.NDArray[np.float64] = top / ((mean**2 + other_mean**2 + c1) * (variance + other_variance + c2))
    return found.mean((1, 2, 3))


def _windowed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussian mean around each place that has a whole window."""
    offsets = np.arange(-SSIM_RADIUS_PX, SSIM_RADIUS_PX + 1)
    window = np.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
    window /= window.sum()
    for axis in (2, 3):
        values = np.lib.stride_tricks.sliding_window_view(values, len(window), axis=axis) @ window
    return values


def code_perplexity(counts: npt.NDArray[np.int64]) -> float:
    """Exp of the entropy of the codes' shares: as many equally frequent codes are as varied; 1 where all are one.

    Args:
        counts: int64 [k], how often each code occurs; not all 0.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def code_scores(ids: npt.NDArray[np.int64], codes: int, seed: int) -> dict[str, Score]:
    """How the codes are used in a split, with intervals over images.

    Args:
        ids: int64 [n, l], the code of each place.
        codes: number of codes k.
        seed: decides the resamples.

    Returns:
        `codes_used`, the number of codes that occur; `code_perplexity` (see above); and `varied_images`, the share of
        images with more than one code. A resample of images has fewer different codes than the images, so that the
        intervals of the first two are widened to contain the number itself.
    """
    counts = np.stack([np.bincount(row, minlength=codes) for row in ids])
    generator = counter_rng("codes", seed, len(ids))
    drawn = generator.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), RESAMPLES) @ counts
    found = {}
    for name, measure in (("codes_used", np.count_nonzero), ("code_perplexity", code_perplexity)):
        value = float(measure(counts.sum(0)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile([float(measure(row)) for row in drawn], (tail, 1 - tail))
        found[name] = Score(value, min(float(low), value), max(float(high), value), len(ids))
    return {**found, "varied_images": proportion((ids != ids[:, :1]).any(1), seed=seed)}
