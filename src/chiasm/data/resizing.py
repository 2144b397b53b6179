"""Apply a `Resizing`: an image of any size -> the size that an encoder takes."""

import numpy as np

from chiasm.core.resizing import Resizing
from chiasm.data.image import resize_and_crop, resize_to, resize_within


def resize(image: np.ndarray, how: Resizing) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height_px, width_px, 3], of the height and width in `how.size_px`.

    "cover" and "squeeze" are `resize_to` with and without cropping, "shortest" is `resize_and_crop`, "within" is
    `resize_within` on a canvas [height_px, width_px, 4], with 255 in the fourth channel where the image is. "own" is
    the image at its own size, [h, w, 4] with 255 in the fourth channel.
    """
    if how.method == "shortest":
        return resize_and_crop(image, how.resize_px, how.crop_px, how.resample)
    if how.method == "own":
        height, width = image.shape[:2]
        factor = min(how.size_px[0] / height, how.size_px[1] / width, 1.0)
        small = resize_to(image, max(int(height * factor), 1), max(int(width * factor), 1), False)
        return np.concatenate([small, np.full_like(small[..., :1], 255)], 2)
    if how.method != "within":
        return resize_to(image, *how.size_px, how.method == "cover")
    resized = resize_within(image, how.resize_px[0], how.longest_px, how.divisor, how.resample)
    canvas = np.zeros((*how.size_px, 4), dtype=np.uint8)
    canvas[: resized.shape[0], : resized.shape[1], :3] = resized
    canvas[: resized.shape[0], : resized.shape[1], 3] = 255
    return canvas
