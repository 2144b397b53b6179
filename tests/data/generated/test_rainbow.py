"""Rainbow shapes: how many there are, what tells them apart, and pixels against a slow loop."""

import math

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.data.generated.rainbow import ALL, BANDS, COLORS, SIDE_PX, Rainbow, RainbowConfig, RainbowDataset, render

WHITE = (255, 255, 255)


def shown(**changes: str) -> Rainbow:
    usual = {"scale": "big", "fill": "filled", "texture": "", "color": "red", "shape": "square", "turn": ""}
    return Rainbow(**{**usual, **changes})


def coloured(one: Rainbow) -> np.ndarray:
    return (render(one) != 255).any(-1)


def test_there_are_9216_captions_as_in_the_notebook() -> None:
    captions = [one.caption for one in ALL]
    assert len(set(captions)) == len(captions) == 4 * 2 * 3 * 12 * 8 * 4 == 9216
    assert shown(scale="small", texture="shaded", shape="star", turn="rotated twice").caption == (
        "small filled shaded red star rotated twice"
    )
    assert max(len(text.split()) for text in captions) == 7


def inside(shape: str, x: float, y: float) -> bool:
    """By corners and arcs, edge by edge."""
    root = math.sqrt(3)

    def polygon(corners: list[tuple[float, float]]) -> bool:
        sides = zip(corners, [*corners[1:], corners[0]], strict=True)
        turns = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for (ax, ay), (bx, by) in sides]
        return all(turn >= 0 for turn in turns) or all(turn <= 0 for turn in turns)

    up = [(0.0, -1.0), (root / 2, 0.5), (-root / 2, 0.5)]
    if shape == "circle":
        return math.hypot(x, y) <= 1
    if shape == "star":
        return polygon(up) != polygon([(a, -b) for a, b in up])
    if shape == "crescent":
        return math.hypot(x, y) <= 1 and math.hypot(x + root, y) >= 2 and x >= 0
    corners = {
        "triangle": up,
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "rectangle": [(-0.9, -0.5), (0.9, -0.5), (0.9, 0.5), (-0.9, 0.5)],
        "rhombus": [(0.0, -1.0), (0.5, 0.0), (0.0, 1.0), (-0.5, 0.0)],
        "hexagon": [(0.0, -1.0), (root / 2, -0.5), (root / 2, 0.5), (0.0, 1.0), (-root / 2, 0.5), (-root / 2, -0.5)],
    }
    return polygon(corners[shape])


@pytest.mark.parametrize(
    "shape", ["circle", "triangle", "square", "rhombus", "rectangle", "star", "hexagon", "crescent"]
)
@pytest.mark.parametrize(("scale", "radius"), [("big", 16.0), ("small", 6.4)])
def test_shapes_are_their_corners_and_arcs(shape: str, scale: str, radius: float) -> None:
    found = coloured(shown(shape=shape, scale=scale))
    for row in range(SIDE_PX):
        for column in range(SIDE_PX):
            x, y = (column - 15.5) / radius, (row - 15.5) / radius
            assert found[row, column] == inside(shape, x, y), (row, column)


def test_an_outline_is_one_pixel_wide_and_a_turn_is_a_turn() -> None:
    whole, outline = coloured(shown(shape="triangle")), coloured(shown(shape="triangle", fill=""))
    for row, column in zip(*np.nonzero(whole), strict=True):
        near = [whole[row + dy, column + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)) if row + dy < SIDE_PX]
        assert outline[row, column] == (len(near) < 4 or not all(near))
    upright = coloured(shown(shape="crescent"))
    assert upright[:, 16:].sum() > 4 * upright[:, :16].sum()
    clockwise = coloured(shown(shape="crescent", turn="rotated clockwise"))
    assert clockwise[16:].sum() > 4 * clockwise[:16].sum()
    assert np.array_equal(np.rot90(clockwise), upright)


def test_textures_whiten_a_share_and_a_rainbow_has_bands() -> None:
    area = coloured(shown()).sum()
    assert coloured(shown(texture="shaded")).sum() / area == pytest.approx(0.7, abs=0.03)
    assert coloured(shown(texture="halftone")).sum() / area == pytest.approx(0.5, abs=0.03)
    image = render(shown(color="rainbow"))
    rows = [tuple(int(value) for value in image[row, 16]) for row in range(2, 30)]
    assert len(set(rows)) == len(BANDS) and rows[:7] == rows[7:14] and WHITE not in rows
    assert {tuple(render(shown(color=color))[16, 16]) for color in COLORS if color != "rainbow"} == {
        tuple(int(part) for part in render(shown(color=color))[10, 12]) for color in COLORS if color != "rainbow"
    }


def test_no_caption_is_in_two_splits() -> None:
    config = RainbowConfig()
    texts = {}
    for split in ("train", "trained", "val", "test"):
        found = RainbowDataset(split, config, 0)
        texts[split] = [found.example(number).captions[0].text for number in range(len(found))]
    assert [len(some) for some in texts.values()] == [2395, 1000, 1000, 1000]
    assert texts["trained"] == texts["train"][:1000]
    held = texts["train"] + texts["val"] + texts["test"]
    assert len(set(held)) == len(held)
    other = RainbowDataset("train", config, 1)
    assert [other.example(number).captions[0].text for number in range(50)] != texts["train"][:50]


def test_splits_larger_than_the_set_are_refused() -> None:
    with pytest.raises(InputError, match=r"data\.train_pictures is 9000"):
        RainbowConfig(train_pictures=9000).check()
