"""Boxes: generated images in the manner of Cornell NLVR (Suhr et al. 2017, section 3), with all objects known.

An image shows three light grey boxes of 100 x 100 pixels, side by side on darker grey. It either has a tower of 1
to 4 blocks in each box, or 1 to 7 scattered items in each: triangles, circles and squares of three colours and three
sizes that do not overlap. Sizes, places and colours follow the published images: an item's corner is drawn uniformly
over the box and clipped to it, so that many items touch the right wall and the bottom.

Images come in pairs. Every statement refers to both images and is true of exactly one, as in the collection of the
corpus; in half of the pairs one image has the items of the other in new places, so that counts over the whole image
are equal. Therefore a statement's wording alone does not predict its truth.

Splits cannot leak: the hash of a pair's content, independent of the order of boxes, determines its split.
"""

import hashlib
import random
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from chiasm.core.random import counter_seed

BOX_PX, GAP_PX, NUM_BOXES = 100, 50, 3
WIDTH_PX, HEIGHT_PX = NUM_BOXES * BOX_PX + (NUM_BOXES - 1) * GAP_PX, BOX_PX
BOX_COLOR, GAP_COLOR = (211, 211, 211), (128, 128, 128)
COLORS = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
SHAPES = ("triangle", "circle", "square")
SIZES = {"small": 10, "medium": 20, "big": 30}
"""Size word -> side of the item's bounding box in pixels."""
MAX_BLOCKS, MAX_ITEMS = 4, 7
BLOCK_PX, BLOCK_STEP_PX, TOWER_X_PX = SIZES["medium"], SIZES["medium"] + 1, 40
SPLITS = ("train", "val", "test")
_TOWER_SHARE = 2 / 3
_CIRCLE_SIXTEENTHS = {
    10: ("004cf", "08", "4", "c", "f"),
    20: ("0000058cf", "00003d", "0008", "008", "03", "0d", "5", "8", "c", "f"),
    30: (
        "000000000059cd", "00000018f", "0000006f", "000009", "0000a", "0009", "006", "01f", "08", "0f", "5", "9", "c",
        "d", "",
    ),
}  # fmt: skip
"""Measured coverage of the published circles, top left quarter: the first pixels of each row in hexadecimal
sixteenths; the rest of a row is full."""


class BoxItem(NamedTuple):
    """One item: the pixel of its top left corner within its box, and its attributes."""

    x_px: int
    y_px: int
    size: str
    color: str
    shape: str


Box = tuple[BoxItem, ...]
"""Items of a box; the blocks of a tower stand from the base to the top."""


class BoxesScene(NamedTuple):
    """Three boxes with towers, or with scattered items."""

    kind: Literal["tower", "scatter"]
    boxes: tuple[Box, ...]


def tower(colors: list[str]) -> Box:
    """Stack blocks of these colours, the base first, with a pixel of background between two blocks."""
    base_y_px = BOX_PX - BLOCK_PX
    return tuple(
        BoxItem(TOWER_X_PX, base_y_px - number * BLOCK_STEP_PX, "medium", color, "square")
        for number, color in enumerate(colors)
    )


def _strewn(looks: list[tuple[str, str, str]], rng: random.Random) -> Box:
    """Find places for items (size, colour, shape), at least a pixel apart; restarts where an item does not fit."""
    while True:
        placed: list[BoxItem] = []
        for size, color, shape in looks:
            side = SIZES[size]
            for _ in range(40):
                x = min(int(rng.random() * BOX_PX), BOX_PX - side)
                y = min(int(rng.random() * BOX_PX), BOX_PX - side)
                for other in placed:
                    far = SIZES[other.size]
                    if other.x_px - side <= x <= other.x_px + far and other.y_px - side <= y <= other.y_px + far:
                        break
                else:
                    placed.append(BoxItem(x, y, size, color, shape))
                    break
            else:
                break
        if len(placed) == len(looks):
            return tuple(placed)


def sample_scene(rng: random.Random, kind: Literal["tower", "scatter"]) -> BoxesScene:
    """Draw an image; counts, colours, shapes and sizes are uniform and independent, as in the published images."""
    draw, colors, sizes = rng.random, tuple(COLORS), tuple(SIZES)
    boxes = []
    for _ in range(NUM_BOXES):
        if kind == "tower":
            boxes.append(tower([colors[int(draw() * 3)] for _ in range(1 + int(draw() * MAX_BLOCKS))]))
        else:
            looks = [
                (sizes[int(draw() * 3)], colors[int(draw() * 3)], SHAPES[int(draw() * 3)])
                for _ in range(1 + int(draw() * MAX_ITEMS))
            ]
            boxes.append(_strewn(looks, rng))
    return BoxesScene(kind, tuple(boxes))


def rearranged(scene: BoxesScene, rng: random.Random) -> BoxesScene:
    """Redistribute the items of an image: the same items in other places, and mostly in other boxes."""
    items = [item for box in scene.boxes for item in box]
    rng.shuffle(items)
    most = MAX_BLOCKS if scene.kind == "tower" else MAX_ITEMS
    while True:
        cuts = sorted(rng.sample(range(1, len(items)), NUM_BOXES - 1))
        parts = [items[start:end] for start, end in zip([0, *cuts], [*cuts, len(items)], strict=True)]
        if max(map(len, parts)) <= most:
            break
    if scene.kind == "tower":
        return BoxesScene("tower", tuple(tower([item.color for item in part]) for part in parts))
    looks = [[(item.size, item.color, item.shape) for item in part] for part in parts]
    return BoxesScene("scatter", tuple(_strewn(part, rng) for part in looks))


def inventory(scene: BoxesScene) -> str:
    """List every item: towers from the base up, scattered items from left to right, with a semicolon between two boxes.

    At most 21 items of three words each. Unlike statements that are true or false, it describes the image completely.
    """
    if scene.kind == "tower":
        return "; ".join(" ".join(item.color for item in box) for box in scene.boxes)
    named = [" ".join(f"{item.size} {item.color} {item.shape}" for item in sorted(box)) for box in scene.boxes]
    return "; ".join(named)


def split_of(scene: BoxesScene) -> str:
    """Return the only split that may hold these boxes in any order: 1 in 16 is val, 1 in 16 test, the rest train."""
    shown = repr(sorted(scene.boxes)).encode()
    digest = hashlib.blake2b(shown, digest_size=1).digest()[0]
    return {0: "val", 1: "test"}.get(digest % 16, "train")


def _looks(scene: BoxesScene) -> list[list[tuple[str, str, str]]]:
    """Content of the boxes without places, sorted so that the order of boxes and of scattered items does not matter."""
    held = [[(item.size, item.color, item.shape) for item in box] for box in scene.boxes]
    return sorted(held if scene.kind == "tower" else [sorted(box) for box in held])


def pair_at(split: str, number: int, seed: int) -> tuple[BoxesScene, BoxesScene]:
    """Return pair `number` of a split, a pure function of its arguments: two images of one kind that differ."""
    rng = random.Random(counter_seed("boxes", seed, split, number))
    kind: Literal["tower", "scatter"] = "tower" if rng.random() < _TOWER_SHARE else "scatter"
    first = sample_scene(rng, kind)
    while split_of(first) != split:
        first = sample_scene(rng, kind)
    keeps_items = rng.random() < 0.5
    for attempt in range(10**6):
        # Three single blocks cannot be redistributed: after some attempts other items are drawn.
        second = rearranged(first, rng) if keeps_items and attempt < 100 else sample_scene(rng, kind)
        if split_of(second) == split and _looks(second) != _looks(first):
            return first, second
    raise AssertionError("no second image was found")


@cache
def _background() -> np.ndarray:
    canvas = np.empty((HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    canvas[:] = GAP_COLOR
    for number in range(NUM_BOXES):
        left = number * (BOX_PX + GAP_PX)
        canvas[:, left : left + BOX_PX] = BOX_COLOR
    return canvas


def _coverage(side: int, shape: str) -> np.ndarray:
    """Share of each pixel that the shape covers, float64 [side, side]."""
    if shape == "square":
        return np.ones((side, side))
    half = side // 2
    if shape == "circle":
        rows = [[int(digit, 16) for digit in row] + [16] * (half - len(row)) for row in _CIRCLE_SIXTEENTHS[side]]
        left = np.concatenate([rows, rows[::-1]]) / 16
    else:
        # The slanted side has slope 2, so that its pixels are covered by a quarter and by three quarters.
        y, x = np.mgrid[:side, :half]
        left = np.clip((y + 0.5) / 2 - (half - 1 - x), 0, 1)
    return np.concatenate([left, left[:, ::-1]], axis=1)


@cache
def _sprite(size: str, color: str, shape: str) -> np.ndarray:
    """Return the item on the box's grey, uint8 [side, side, 3]."""
    coverage = _coverage(SIZES[size], shape)[..., None]
    return np.round(coverage * np.array(COLORS[color]) + (1 - coverage) * np.array(BOX_COLOR)).astype(np.uint8)


def render(scene: BoxesScene) -> np.ndarray:
    """Draw an image: uint8 [100, 400, 3]. Bounding boxes never overlap, so a sprite may overwrite its square."""
    canvas = _background().copy()
    for number, box in enumerate(scene.boxes):
        left = number * (BOX_PX + GAP_PX)
        for x, y, size, color, shape in box:
            sprite = _sprite(size, color, shape)
            side = len(sprite)
            canvas[y : y + side, left + x : left + x + side] = sprite
    return canvas
