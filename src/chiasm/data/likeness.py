"""A small grey version of an image, for near-duplicates: robust to resizing, recompression and small crops."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from chiasm.data.image import load_image, read_image_bytes

GREY_PX = 16
"""Side of the small grey version."""


def grey_version(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """RGB uint8 [h, w, 3] -> float64 [16, 16] with mean 0 and variance 1.

    The mean of the products of two such versions is their correlation in [-1, 1]; of an image and its copy it is near
    1. An image of one colour has no variance and is all zeros, like nothing.
    """
    grey = Image.fromarray(image).convert("L").resize((GREY_PX, GREY_PX), Image.Resampling.BOX)
    small = np.asarray(grey, dtype=np.float64)
    return (small - small.mean()) / max(float(small.std()), 1e-6)


def grey_file(path: str) -> npt.NDArray[np.float64]:
    """`grey_version` of a file, which a JPEG need not be decoded at full size for.

    Raises:
        ImageError: the image cannot be used.
    """
    return grey_version(load_image(read_image_bytes(path), path, GREY_PX))
