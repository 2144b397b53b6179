"""Windows of training images, at another place and of another size in each epoch.

An image tower that is trained on a few thousand images learns them by heart; what it sees of one through a window
differs each time (Szegedy et al. 2015, section 6; CLIP's only augmentation, Radford et al. 2021, section 2.3). The
window has the shape that the tower sees, so that nothing is squeezed that was not before.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from chiasm.core.random import counter_rng
from chiasm.core.types import ImageRef


def cropped(ref: ImageRef, least_area: float, aspect: float | None, *counters: int | str) -> ImageRef:
    """Refer to a window of an image; it is the same whenever it is loaded.

    Args:
        ref: the image. Its content key stays: the window is what a step sees of this image.
        least_area: least share, in (0, 1], of the largest window's area; the share is drawn evenly from there to 1.
        aspect: width of the window by its height; None keeps the image's own.
        counters: what place and size depend on, beside the purpose: seed, epoch, example.
    """
    return ImageRef(partial(_load, ref.load, least_area, aspect, counters), ref.content_key, ref.path)


def window(image: np.ndarray, least_area: float, aspect: float | None, rng: np.random.Generator) -> np.ndarray:
    """Cut a window out of uint8 [h, w, 3]; arguments as in `cropped`. Returns a view."""
    height, width = image.shape[:2]
    aspect = width / height if aspect is None else aspect
    side = math.sqrt(rng.uniform(least_area, 1.0))
    wide = min(width, max(1, round(min(width, height * aspect) * side)))
    high = min(height, max(1, round(min(height, width / aspect) * side)))
    left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
    return image[top : top + high, left : left + wide]


def _load(
    load: Callable[[], np.ndarray], least_area: float, aspect: float | None, counters: tuple[int | str, ...]
) -> np.ndarray:
    return np.ascontiguousarray(window(load(), least_area, aspect, counter_rng("crop", *counters)))
