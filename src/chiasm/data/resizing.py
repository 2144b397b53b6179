"""How a picture of any size gets the one size that a tower takes: plain numbers, which another process can be given."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chiasm.data.image import resize_and_crop, resize_to, resize_within


@dataclass(frozen=True, slots=True)
class Resizing:
    """One way to resize; call it with a picture.

    Attributes:
        method: "cover" and "squeeze" are `resize_to` with and without cropping, "shortest" is `resize_and_crop`,
            "within" is `resize_within` on a canvas.
        size_px: height and width of what comes out.
        resize_px: as `resize_and_crop` takes it; the shorter side for "within".
        crop_px: as `resize_and_crop` takes it.
        resample: Pillow's number of the filter, for "shortest" and "within".
        longest_px: bound of the longer side, for "within".
        divisor: what sides are multiples of, for "within".
    """

    method: Literal["cover", "squeeze", "shortest", "within"]
    size_px: tuple[int, int]
    resize_px: tuple[int, ...] = ()
    crop_px: tuple[int, ...] = ()
    resample: int = 3
    longest_px: int = 0
    divisor: int = 1

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] -> uint8 [height_px, width_px, 3].

        With "within" a canvas [height_px, width_px, 4], with 255 in the fourth channel where the picture is.
        """
        if self.method == "shortest":
            return resize_and_crop(picture, self.resize_px, self.crop_px, self.resample)
        if self.method != "within":
            return resize_to(picture, *self.size_px, self.method == "cover")
        resized = resize_within(picture, self.resize_px[0], self.longest_px, self.divisor, self.resample)
        canvas = np.zeros((*self.size_px, 4), dtype=np.uint8)
        canvas[: resized.shape[0], : resized.shape[1], :3] = resized
        canvas[: resized.shape[0], : resized.shape[1], 3] = 255
        return canvas

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Resizing":
        """The reverse of `dataclasses.asdict`, by way of JSON."""
        fields: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
        return cls(**fields)
