"""Scenes: generated images of coloured shapes with exactly true captions and answers.

A scene has 1 to 5 objects near the cells of a 3 x 3 grid on 48 x 48 pixels. It tests in minutes, without files, whether
a model binds attributes to objects, counts, compares, and distinguishes left from right.

Splits cannot leak: the hash of a scene's description determines its split, so no description is in two splits. Two
colour-shape pairs never occur in train, val or test; every scene of `compositional` has one.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from chiasm.core.random import counter_seed

SHAPES = ("circle", "square", "triangle")
COLORS = {
    "red": (214, 48, 49),
    "green": (39, 154, 76),
    "blue": (43, 98, 214),
    "yellow": (245, 196, 24),
    "purple": (142, 68, 173),
    "cyan": (38, 198, 208),
}
SIZES = {"small": 8, "large": 14}
"""Size word -> side of the object's bounding box in pixels."""
GRID = 3
CELL_PX = 16
IMAGE_SIZE_PX = GRID * CELL_PX
MAX_OBJECTS = 5
JITTER_PX = 1
BACKGROUND = (236, 236, 232)
HELD_OUT_PAIRS = frozenset({("green", "triangle"), ("purple", "square")})
SPLITS = ("train", "val", "test", "compositional")
_OVERSAMPLING = 8


@dataclass(frozen=True, slots=True, order=True)
class SceneObject:
    """One shape: its cell (row and column from the top left), its attributes, and its offset in pixels."""

    row: int
    column: int
    size: str
    color: str
    shape: str
    shift_x_px: int = 0
    shift_y_px: int = 0

    @property
    def described(self) -> tuple[int, int, str, str, str]:
        """The attributes in a caption: all except the offset."""
        return (self.row, self.column, self.size, self.color, self.shape)


Scene = tuple[SceneObject, ...]
"""Objects in reading order."""


def sample_scene(rng: random.Random, held_out: bool) -> Scene:
    """Draw a scene; `held_out` decides whether exactly the first drawn object is a held-out colour-shape pair."""
    cells = rng.sample(range(GRID * GRID), rng.randint(1, MAX_OBJECTS))
    objects = []
    for number, cell in enumerate(cells):
        if held_out and number == 0:
            color, shape = rng.choice(sorted(HELD_OUT_PAIRS))
        else:
            color, shape = rng.choice(tuple(COLORS)), rng.choice(SHAPES)
            while (color, shape) in HELD_OUT_PAIRS:
                color, shape = rng.choice(tuple(COLORS)), rng.choice(SHAPES)
        shift = (rng.randint(-JITTER_PX, JITTER_PX), rng.randint(-JITTER_PX, JITTER_PX))
        objects.append(SceneObject(*divmod(cell, GRID), rng.choice(tuple(SIZES)), color, shape, *shift))
    return tuple(sorted(objects))


def split_of(scene: Scene) -> str:
    """Return the only split that may hold a scene of this description: 1 in 16 is val, 1 in 16 test, the rest train."""
    if any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in scene):
        return "compositional"
    digest = hashlib.blake2b(repr([thing.described for thing in scene]).encode(), digest_size=1).digest()[0]
    return {0: "val", 1: "test"}.get(digest % 16, "train")


def scene_at(split: str, index: int, seed: int) -> Scene:
    """Return scene number `index` of a split: a pure function of its arguments."""
    rng = random.Random(counter_seed("scene", seed, split, index))
    while True:
        scene = sample_scene(rng, held_out=split == "compositional")
        if split_of(scene) == split:
            return scene


def distinct_scenes(split: str, count: int, seed: int) -> list[Scene]:
    """Return the first `count` scenes of a split of which no two share a description (for retrieval galleries)."""
    seen: set[tuple[tuple[int, int, str, str, str], ...]] = set()
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < count:
        scene = scene_at(split, index, seed)
        index += 1
        key = tuple(thing.described for thing in scene)
        if key not in seen:
            seen.add(key)
            scenes.append(scene)
    return scenes


@cache
def _sprite(size: str, color: str, shape: str) -> tuple[np.ndarray, np.ndarray]:
    """An object's colour times coverage, float32 [side, side, 3], and 1 - coverage, float32 [side, side, 1]."""
    side = SIZES[size]
    big = side * _OVERSAMPLING
    mask = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif shape == "square":
        edge = big // 14
        draw.rectangle((edge, edge, big - 1 - edge, big - 1 - edge), fill=255)
    else:
        draw.polygon(((0, big - 1), (big - 1, big - 1), (big // 2, 0)), fill=255)
    coverage = np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
    return coverage * np.asarray(COLORS[color], dtype=np.float32), 1 - coverage


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: uint8 [48, 48, 3], anti-aliased."""
    canvas = np.empty((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.float32)
    canvas[:] = BACKGROUND
    for thing in scene:
        paint, keep = _sprite(thing.size, thing.color, thing.shape)
        side = paint.shape[0]
        top = thing.row * CELL_PX + (CELL_PX - side) // 2 + thing.shift_y_px
        left = thing.column * CELL_PX + (CELL_PX - side) // 2 + thing.shift_x_px
        area = canvas[top : top + side, left : left + side]
        area *= keep
        area += paint
    return (canvas + 0.5).astype(np.uint8)
