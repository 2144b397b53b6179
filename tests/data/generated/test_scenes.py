"""Scenes: splits that cannot leak, and pixels that show what the objects say."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.data.generated.scenes import (
    BACKGROUND,
    CELL_PX,
    COLORS,
    GRID,
    HELD_OUT_PAIRS,
    IMAGE_SIZE_PX,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    distinct_scenes,
    render,
    scene_at,
    split_of,
)

COUNT = 400


def pairs_of(scene: Scene) -> set[tuple[str, str]]:
    return {(thing.color, thing.shape) for thing in scene}


def description(scene: Scene) -> tuple[object, ...]:
    """What a picture shows, jitter left out: written here again, so that the source cannot define its own leak."""
    return tuple((one.row, one.column, one.size, one.color, one.shape) for one in scene)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Scene]]:
    return {split: [scene_at(split, index, 0) for index in range(COUNT)] for split in SPLITS}


def test_scenes_never_change() -> None:
    """Stated values, drawn when the format was fixed: every number ever measured rests on these pictures."""
    first = scene_at("train", 0, 0)
    assert len(first) == 5 and first[0] == SceneObject(0, 1, "small", "red", "square", -1, 1)
    pixels = hashlib.sha256(render(first).tobytes()).hexdigest()
    assert pixels == "fb19296d63f2294fa19fc63d05287ee5a09148606c844ad6e483fa340bef8fda"


def test_no_description_stands_in_two_splits(splits: dict[str, list[Scene]]) -> None:
    """Guards against leaks: a test picture (of any seed) that was trained on, up to jitter."""
    other_seed = {split: [scene_at(split, index, 1) for index in range(COUNT)] for split in SPLITS}
    shown = {split: {description(s) for s in splits[split] + other_seed[split]} for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            if one < other:
                assert not shown[one] & shown[other]


def test_small_scenes_are_split_without_a_leak_too() -> None:
    """Guards against chance: of 2,000 one-object scenes there are only 324 descriptions, and each has one split."""
    split_by: dict[tuple[object, ...], set[str]] = {}
    for split in SPLITS:
        for index in range(2000):
            scene = scene_at(split, index, 5)
            if len(scene) == 1:
                split_by.setdefault(description(scene), set()).add(split)
    assert len(split_by) > 200 and all(len(found) == 1 for found in split_by.values())


def test_held_out_pairs_are_held_out(splits: dict[str, list[Scene]]) -> None:
    """Guards against a compositional split that was seen in training, or that does not test composition."""
    for split in ("train", "val", "test"):
        assert not any(pairs_of(scene) & HELD_OUT_PAIRS for scene in splits[split])
    assert all(pairs_of(scene) & HELD_OUT_PAIRS for scene in splits["compositional"])
    shown = set().union(*(pairs_of(scene) for scene in splits["train"]))
    assert shown == {(color, shape) for color in COLORS for shape in SHAPES} - HELD_OUT_PAIRS


def test_one_scene_in_eight_is_not_for_training() -> None:
    """Guards against a split by a hash that does not spread: 1/16 each, binomial deviation 0.5 % of 2,000."""
    drawn = Counter()
    for index in range(2000):
        # A train scene with one object moved to a free cell is a fresh draw of the split's hash.
        scene = scene_at("train", index, 2)
        free = next(c for c in range(GRID * GRID) if c not in {one.row * GRID + one.column for one in scene})
        moved = SceneObject(*divmod(free, GRID), scene[0].size, scene[0].color, scene[0].shape)
        drawn[split_of(tuple(sorted((*scene[1:], moved))))] += 1
    assert set(drawn) == {"train", "val", "test"}
    assert abs(drawn["val"] / 2000 - 1 / 16) < 0.025 and abs(drawn["test"] / 2000 - 1 / 16) < 0.025


def test_scenes_are_varied(splits: dict[str, list[Scene]]) -> None:
    """Guards against a generator that favours a count, a cell or a colour."""
    everything = [scene for split in ("train", "val", "test") for scene in splits[split]]
    counts = Counter(len(scene) for scene in everything)
    assert set(counts) == {1, 2, 3, 4, 5} and min(counts.values()) > 0.1 * len(everything)
    cells = Counter((one.row, one.column) for scene in everything for one in scene)
    assert len(cells) == 9 and max(cells.values()) < 1.5 * min(cells.values())
    assert all(len({(one.row, one.column) for one in scene}) == len(scene) for scene in everything)
    assert all(list(scene) == sorted(scene) for scene in everything)


def test_a_gallery_has_no_two_equal_descriptions() -> None:
    """Guards against retrieval that is scored wrong for a right answer; one-object scenes would repeat soon."""
    plain = [description(scene_at("val", index, 0)) for index in range(500)]
    gallery = [description(scene) for scene in distinct_scenes("val", 500, 0)]
    assert len(set(plain)) < 500, "without the check there are doubles, or this test proves nothing"
    assert len(set(gallery)) == 500
    assert [description(scene) for scene in distinct_scenes("val", 100, 0)] == gallery[:100]


def has_color(pixels: np.ndarray, color: str) -> np.ndarray:
    return np.abs(pixels.astype(int) - COLORS[color]).max(-1) <= 3


def seen_shape(mask: np.ndarray) -> str:
    """Name the shape of fully painted pixels: a square fills its box, a circle is the same upside down."""
    box = mask[mask.any(1)][:, mask.any(0)]
    if box.all():
        return "square"
    return "circle" if np.array_equal(box, box[::-1]) else "triangle"


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(SPLITS), st.integers(0, 10**6))
def test_pixels_show_the_objects(split: str, index: int) -> None:
    """Guards against swapped rows and columns, sizes that look alike, and paint outside an object's cell.

    An object's colour must be the only paint of its cell, in the object's size and shape; a cell without object is
    background.
    """
    scene = scene_at(split, index, 0)
    image = render(scene)
    assert image.shape == (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3) and image.dtype == np.uint8
    by_cell = {(one.row, one.column): one for one in scene}
    for row in range(GRID):
        for column in range(GRID):
            cell = image[row * CELL_PX : (row + 1) * CELL_PX, column * CELL_PX : (column + 1) * CELL_PX]
            thing = by_cell.get((row, column))
            if thing is None:
                assert (cell == BACKGROUND).all()
                continue
            painted = (cell != BACKGROUND).any(-1)
            counts = {color: int(has_color(cell, color).sum()) for color in COLORS}
            assert max(counts, key=lambda color: counts[color]) == thing.color
            assert sum(counts.values()) == counts[thing.color]
            ys, xs = np.nonzero(painted)
            side = SIZES[thing.size]
            assert side - 2 <= np.ptp(xs) + 1 <= side and side - 2 <= np.ptp(ys) + 1 <= side
            assert seen_shape(has_color(cell, thing.color)) == thing.shape


def test_a_triangle_points_up_and_squares_have_corners() -> None:
    """Guards against shapes that differ only in area, which a model could tell by counting paint."""
    images = {shape: render((SceneObject(1, 1, "large", "red", shape),))[16:32, 16:32] for shape in SHAPES}
    painted = {shape: has_color(image, "red") for shape, image in images.items()}
    rows = {shape: mask.sum(1)[mask.any(1)] for shape, mask in painted.items()}
    assert (np.diff(rows["triangle"]) >= 0).all() and rows["triangle"][-1] > 3 * rows["triangle"][0]
    assert len(set(rows["square"].tolist())) == 1
    assert rows["circle"].max() > rows["circle"][0] and np.array_equal(rows["circle"], rows["circle"][::-1])


def test_jitter_moves_an_object_by_its_pixels() -> None:
    """Guards against x and y swapped in the shift."""
    still = render((SceneObject(1, 1, "small", "blue", "square"),))
    moved = render((SceneObject(1, 1, "small", "blue", "square", 1, -1),))
    assert np.array_equal(np.roll(still, (-1, 1), (0, 1)), moved)
