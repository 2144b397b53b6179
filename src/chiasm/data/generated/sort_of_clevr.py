"""Sort-of-CLEVR, generated as published.

Source: Santoro et al. 2017, "A simple neural network module for relational reasoning", section 4.

75 x 75 images with six objects, one of each colour, each a square or a circle, none overlapping; ten relational and ten
non-relational questions per image; 9,800 images for training and 200 for testing. The paper has no validation images;
200 more are generated here, so that nothing is chosen on the test images.
"""

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np

from chiasm.core.random import counter_seed
from chiasm.core.types import Example, Question, Source
from chiasm.data.generated.base import GeneratedConfig, GeneratedDataset
from chiasm.data.image_refs import image_ref_from_array

IMAGE_SIZE_PX = 75
RADIUS_PX = 5
"""Half the side of a square, and the radius of a circle."""
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "orange": (250, 150, 20),
    "gray": (128, 128, 128),
    "yellow": (240, 220, 20),
}
SHAPES = ("square", "circle")
SPLIT_SIZES = {"train": 9800, "val": 200, "test": 200}
QUESTIONS_PER_KIND = 10
KINDS = ("relational", "non-relational")
LANGUAGES = ("en", "zh")
_ZH = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "orange": "橙色", "gray": "灰色", "yellow": "黄色",
    "square": "方形", "circle": "圆形", "yes": "是", "no": "不是",
}  # fmt: skip
_TEXTS = {
    ("non-relational", "shape"): ("what shape is the {} object?", "{}物体是什么形状？"),
    ("non-relational", "left"): ("is the {} object in the left half?", "{}物体在左半边吗？"),
    ("non-relational", "bottom"): ("is the {} object in the bottom half?", "{}物体在下半边吗？"),
    ("relational", "closest"): ("what shape is the object closest to the {} object?", "离{}物体最近的物体是什么形状？"),
    ("relational", "furthest"): (
        "what shape is the object furthest from the {} object?",
        "离{}物体最远的物体是什么形状？",
    ),
    ("relational", "count"): (
        "how many objects have the shape of the {} object?",
        "有几个物体和{}物体形状相同？",
    ),
}


@dataclass(frozen=True, slots=True)
class ClevrObject:
    """One object: colour, shape and the pixel of its centre."""

    color: str
    shape: str
    x_px: int
    y_px: int

    def distance2(self, other: "ClevrObject") -> int:
        """Squared distance between centres in pixels."""
        return (self.x_px - other.x_px) ** 2 + (self.y_px - other.y_px) ** 2


ClevrScene = tuple[ClevrObject, ...]


def scene_at(split: str, index: int, seed: int) -> ClevrScene:
    """Return image number `index` of a split: a pure function of its arguments."""
    rng = random.Random(counter_seed("sort_of_clevr", seed, split, index))
    while True:
        objects: list[ClevrObject] = []
        for color in COLORS:
            for _ in range(100):
                place = (
                    rng.randint(RADIUS_PX, IMAGE_SIZE_PX - 1 - RADIUS_PX),
                    rng.randint(RADIUS_PX, IMAGE_SIZE_PX - 1 - RADIUS_PX),
                )
                thing = ClevrObject(color, rng.choice(SHAPES), *place)
                if all(thing.distance2(other) > (2 * RADIUS_PX) ** 2 * 2 for other in objects):
                    objects.append(thing)
                    break
        if len(objects) == len(COLORS):
            return tuple(objects)


def transformed(scene: ClevrScene, rng: random.Random) -> ClevrScene:
    """Mirror, rotate and recolour an image: one of 8 symmetries of the square times 720 permutations of the colours.

    Distances and shapes are unchanged, so questions stay as hard; their answers are computed again.
    """
    far = IMAGE_SIZE_PX - 1
    mirror_x, mirror_y, swap = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    colors = rng.sample(tuple(COLORS), len(COLORS))
    changed = []
    for color, thing in zip(colors, scene, strict=True):
        x_px = far - thing.x_px if mirror_x else thing.x_px
        y_px = far - thing.y_px if mirror_y else thing.y_px
        changed.append(ClevrObject(color, thing.shape, *((y_px, x_px) if swap else (x_px, y_px))))
    return tuple(sorted(changed, key=lambda thing: tuple(COLORS).index(thing.color)))


def render(scene: ClevrScene) -> np.ndarray:
    """Draw an image: uint8 [75, 75, 3] on white."""
    canvas = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), 255, dtype=np.uint8)
    y, x = np.mgrid[:IMAGE_SIZE_PX, :IMAGE_SIZE_PX]
    for thing in scene:
        across, down = x - thing.x_px, y - thing.y_px
        if thing.shape == "circle":
            inside = across**2 + down**2 <= RADIUS_PX**2
        else:
            inside = np.maximum(abs(across), abs(down)) <= RADIUS_PX
        canvas[inside] = COLORS[thing.color]
    return canvas


def answer(scene: ClevrScene, color: str, subtype: str) -> str:
    """Return the English answer to one of the six kinds of question about the object of a colour.

    Equal distances are ordered by colour; the count of objects with the same shape includes the object itself.
    """
    thing = next(item for item in scene if item.color == color)
    others = [item for item in scene if item is not thing]
    if subtype == "shape":
        return thing.shape
    if subtype == "left":
        return "yes" if thing.x_px < IMAGE_SIZE_PX / 2 else "no"
    if subtype == "bottom":
        return "yes" if thing.y_px > IMAGE_SIZE_PX / 2 else "no"
    if subtype == "closest":
        return min(others, key=thing.distance2).shape
    if subtype == "furthest":
        return max(others, key=thing.distance2).shape
    return str(sum(item.shape == thing.shape for item in scene))


def questions(scene: ClevrScene, split: str, index: int, seed: int, language: str = "en") -> list[Question]:
    """The twenty questions of an image: ten relational, then ten non-relational."""
    rng = random.Random(counter_seed("sort_of_clevr questions", seed, split, index))
    asked = []
    for kind in KINDS:
        subtypes = [subtype for kind_of, subtype in _TEXTS if kind_of == kind]
        for _ in range(QUESTIONS_PER_KIND):
            color, subtype = rng.choice(tuple(COLORS)), rng.choice(subtypes)
            english, chinese = _TEXTS[kind, subtype]
            right = answer(scene, color, subtype)
            if language == "zh":
                asked.append(Question(chinese.format(_ZH[color]), (_ZH.get(right, right),), kind, "zh"))
            else:
                asked.append(Question(english.format(color), (right,), kind, "en"))
    return asked


@dataclass(frozen=True, kw_only=True, slots=True)
class SortOfClevrConfig(GeneratedConfig):
    """Keys of Sort-of-CLEVR. `train_pictures` is as published, 9,800, where it is 0; the other splits have 200."""

    source: Literal["sort_of_clevr"] = "sort_of_clevr"
    symmetries: bool = False
    """Augment training images after the first epoch: mirrored, rotated and recoloured, with updated answers. The
    published set has no such augmentation."""


class SortOfClevrDataset(GeneratedDataset):
    """Sort-of-CLEVR's images with their twenty questions each; `data.symmetries` varies the training images."""

    def __init__(self, split: str, config: SortOfClevrConfig, seed: int) -> None:
        length = (config.train_pictures if split == "train" else 0) or SPLIT_SIZES.get(split, 0)
        super().__init__(split, config, length, tuple(SPLIT_SIZES), LANGUAGES)
        self.seed, self.language = seed, config.languages[0]
        self.varies = config.symmetries and split == "train"

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return image `index`: the same in every epoch, unless `data.symmetries` varies it."""
        scene = scene_at(self.split, index, self.seed)
        if self.varies and epoch > 0:
            rng = random.Random(counter_seed("sort_of_clevr symmetry", self.seed, index, epoch))
            scene = transformed(scene, rng)
        return Example(
            id=f"sort-of-clevr-{self.split}-{index}",
            inputs={"image": image_ref_from_array(render(scene))},
            questions=tuple(questions(scene, self.split, index, self.seed, self.language)),
            source=Source("sort_of_clevr", index),
        )
