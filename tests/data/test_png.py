"""Pixels as PNG files."""

import io

import numpy as np
from PIL import Image

from chiasm.data.png import as_png


def test_transparent_pixels_stay_so() -> None:
    pixels = np.arange(4 * 5 * 4, dtype=np.uint8).reshape(4, 5, 4)
    with Image.open(io.BytesIO(as_png(pixels))) as file:
        assert file.mode == "RGBA" and np.array_equal(np.asarray(file), pixels) and not file.info


def test_what_is_said_stands_in_the_file() -> None:
    """Latin-1 and other text."""
    with Image.open(io.BytesIO(as_png(np.zeros((2, 2, 3), dtype=np.uint8), {"prompt": "圆形", "seed": "7"}))) as file:
        assert file.info == {"prompt": "圆形", "seed": "7"}
