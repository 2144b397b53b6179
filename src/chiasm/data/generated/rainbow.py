"""Rainbow shapes: 9,216 images of one shape each; a prior sees a quarter and draws the others by their captions.

The set of the notebook `rainbow_dalle` of DALLE-pytorch: four sizes, filled or not, three textures, twelve colours,
eight shapes and four rotations on 32 x 32 pixels without anti-aliasing. Its DALL-E, trained on 26 % of them, draws each
token of a trained caption right, and each token of 49 % of the captions that it has not seen. The pixels here follow
the same geometry and are not those of its renderer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Caption, Example, Source
from chiasm.data.generated.base import GeneratedConfig, GeneratedDataset
from chiasm.data.image_refs import image_ref_from_array

SIDE_PX = 32
BANDS = ("red", "orange", "yellow", "green", "blue", "indigo", "violet")
"""Colours of the rows of a rainbow shape, from the top, repeated."""
COLORS = (*BANDS, "cyan", "saddlebrown", "black", "gray", "rainbow")
SCALES: Mapping[str, float] = {"big": 1.0, "bigger": 0.8, "smaller": 0.6, "small": 0.4}
"""Size word -> radius over half of the image."""
WHITENED: Mapping[str, float] = {"": 0.0, "shaded": 0.3, "halftone": 0.5}
"""Texture -> share of the shape's pixels that are white, by error diffusion."""
TURNS: Mapping[str, int] = {"": 0, "rotated clockwise": 1, "rotated twice": 2, "rotated counterclockwise": 3}
FILLS = ("filled", "")
SPLITS = ("train", "trained", "val", "test")
"""Of `trained` the images are those of `train`, to measure what was learned by heart."""

Plane = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_ROOT3 = math.sqrt(3)


def _triangle(x: Plane, y: Plane) -> Mask:
    """Corners at (0, -1) and (+-sqrt(3) / 2, 1 / 2); y grows downwards."""
    return (y <= 0.5) & (_ROOT3 * np.abs(x) <= y + 1)


SHAPES: Mapping[str, Callable[[Plane, Plane], Mask]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "triangle": _triangle,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.9,
    "rhombus": lambda x, y: 2 * np.abs(x) + np.abs(y) <= 1,
    "rectangle": lambda x, y: (np.abs(x) <= 0.9) & (np.abs(y) <= 0.5),
    # Two triangles; what is in both is outside (even-odd rule).
    "star": lambda x, y: _triangle(x, y) ^ _triangle(x, -y),
    "hexagon": lambda x, y: (np.abs(x) <= _ROOT3 / 2) & (np.abs(x) / _ROOT3 + np.abs(y) <= 1),
    "crescent": lambda x, y: (x * x + y * y <= 1) & ((x + _ROOT3) ** 2 + y * y >= 4) & (x >= 0),
}
"""Shape -> which points are inside, in units of the radius."""


@dataclass(frozen=True, slots=True)
class Rainbow:
    """What an image of the set shows."""

    scale: str
    fill: str
    texture: str
    color: str
    shape: str
    turn: str

    @property
    def caption(self) -> str:
        """The words in the order of the notebook, such as "small filled shaded red star rotated twice"."""
        words = (self.scale, self.fill, self.texture, self.color, self.shape, self.turn)
        return " ".join(word for word in words if word)


ALL = tuple(Rainbow(*one) for one in product(SCALES, FILLS, WHITENED, COLORS, SHAPES, TURNS))
"""All 9,216."""


def render(shown: Rainbow) -> npt.NDArray[np.uint8]:
    """Draw one: uint8 [32, 32, 3], on white."""
    middle = (SIDE_PX - 1) / 2
    y, x = (np.indices((SIDE_PX, SIDE_PX)) - middle) / (SCALES[shown.scale] * SIDE_PX / 2)
    mask = SHAPES[shown.shape](x, y)
    if not shown.fill:
        mask &= ~_inner(mask)
    mask = np.rot90(mask, -TURNS[shown.turn])
    if share := WHITENED[shown.texture]:
        grey = Image.fromarray(np.where(mask, round(255 * share), 0).astype(np.uint8))
        mask = mask & ~np.asarray(grey.convert("1"))  # Pillow's conversion is Floyd and Steinberg's
    names = [BANDS[row % len(BANDS)] if shown.color == "rainbow" else shown.color for row in range(SIDE_PX)]
    rows = np.array([ImageColor.getrgb(name) for name in names], dtype=np.uint8)
    return np.where(mask[..., None], rows[:, None], np.uint8(255))


def _inner(mask: Mask) -> Mask:
    """Pixels whose four neighbours are inside: without them an outline of one pixel is left."""
    wide = np.pad(mask, 1)
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


@dataclass(frozen=True, kw_only=True, slots=True)
class RainbowConfig(GeneratedConfig):
    """Keys of rainbow shapes."""

    source: Literal["rainbow"] = "rainbow"
    train_pictures: int = 2395
    """Number of training images, 26 % of all."""
    eval_pictures: int = 1000
    """Number of images of each other split."""

    def check(self) -> None:
        """Check that the splits fit into the set.

        Raises:
            InputError: names the keys.
        """
        GeneratedConfig.check(self)
        if self.train_pictures < 1 or self.eval_pictures < 1 or self.train_pictures + 2 * self.eval_pictures > len(ALL):
            raise InputError(
                f"data.train_pictures is {self.train_pictures} and data.eval_pictures {self.eval_pictures}",
                f"numbers above 0, of which the first and twice the second are at most {len(ALL):,}",
                "--set data.train_pictures=2395 --set data.eval_pictures=1000",
            )


class RainbowDataset(GeneratedDataset):
    """Rainbow shapes; no caption is in two splits, but for `trained`, which is the beginning of `train`."""

    def __init__(self, split: str, config: RainbowConfig, seed: int) -> None:
        train, count = config.train_pictures, config.eval_pictures
        start, length = {
            "train": (0, train),
            "trained": (0, min(train, count)),
            "val": (train, count),
            "test": (train + count, count),
        }.get(split, (0, 0))
        super().__init__(split, config, length, SPLITS, ("en",))
        self.start, self.seed = start, seed

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return image `index` of the split, the same in every epoch."""
        shown = ALL[int(_order(self.seed)[self.start + index])]
        return Example(
            id=f"rainbow-{shown.caption.replace(' ', '-')}",
            inputs={"image": image_ref_from_array(render(shown))},
            captions=(Caption(shown.caption, "en"),),
            source=Source("rainbow", index),
        )


@lru_cache(maxsize=4)
def _order(seed: int) -> npt.NDArray[np.int64]:
    """The set in the order that the splits are cut from."""
    return counter_rng("rainbow", seed).permutation(len(ALL))
