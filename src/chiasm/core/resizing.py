"""How an image of any size gets the size that an encoder takes: plain numbers, which another process can be given."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Resizing:
    """One way to resize; `data.resizing.resize` carries it out.

    Attributes:
        method: "squeeze" scales both sides and ignores the aspect ratio; "cover" scales the shorter side and crops the
            middle; "shortest" and "within" do what a pre-trained network's own preprocessing does, the one with a crop,
            the other with the aspect ratio kept on a canvas; "own" keeps the image at its own size, for a network that
            resizes by itself, and scales it down only beyond `size_px`.
        size_px: height and width of the result; for "own" the most of both.
        resize_px: for "shortest", what is scaled to: the shorter side, or height and width; for "within" the shorter
            side.
        crop_px: for "shortest", height and width of the crop of the middle; () for none.
        resample: Pillow's number of the filter, for "shortest" and "within".
        longest_px: for "within", upper bound of the longer side.
        divisor: for "within", sides are multiples of this.
    """

    method: Literal["cover", "squeeze", "shortest", "within", "own"]
    size_px: tuple[int, int]
    resize_px: tuple[int, ...] = ()
    crop_px: tuple[int, ...] = ()
    resample: int = 3
    longest_px: int = 0
    divisor: int = 1

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Resizing":
        """The reverse of `dataclasses.asdict`, by way of JSON."""
        fields: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
        return cls(**fields)
