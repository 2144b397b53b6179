"""Images at their own sizes: nothing is lost on the canvas, and batches of several shapes are padded."""

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.network_images import NetworkImageConfig
from chiasm.models.networks.image_text import pixels_of
from chiasm.pipeline.batching import stack_images


def test_pixels_come_back_as_they_were() -> None:
    """Guards against rounding on the way through [-1, 1], and against padding that is read as image."""
    made = np.random.default_rng(0)
    images = [made.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((7, 9), (12, 3))]
    stacked = stack_images(images, NetworkImageConfig().preprocessing().resizing)
    assert stacked.shape == (2, 4, 12, 9)
    for image, canvas in zip(images, stacked, strict=True):
        assert np.array_equal(pixels_of(canvas.float() / 127.5 - 1), image)


def test_larger_images_are_scaled_down() -> None:
    """Guards memory: no side is above the bound, and the shape is kept."""
    image = np.zeros((10, 8192, 3), dtype=np.uint8)
    assert stack_images([image], NetworkImageConfig().preprocessing().resizing).shape == (1, 4, 5, 4096)


def test_a_frozen_tower_is_refused() -> None:
    """Guards against a cache of features of one length."""
    with pytest.raises(InputError, match=r"model\.image\.frozen=false"):
        NetworkImageConfig(frozen=True).check()
    with pytest.raises(InputError, match=r"model\.network=FOLDER"):
        NetworkImageConfig().build(EncoderShape(8, 1))


def test_rows_of_several_lengths_are_joined() -> None:
    """Guards parts of a batch whose images became different numbers of tokens."""
    parts = [Tokens(torch.ones(1, n, 2), torch.ones(1, n, dtype=torch.bool), torch.ones(1, 2)) for n in (2, 5)]
    found = Tokens.joined(parts)
    assert found.values.shape == (2, 5, 2) and found.is_real.sum(1).tolist() == [2, 5]
