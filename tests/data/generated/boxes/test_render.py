"""Pictures of boxes, measured from their pixels and compared with the published ones where they are present."""

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.data.generated.boxes.dataset import BoxesConfig
from chiasm.data.generated.boxes.render import COLORS, SIZES, SPLITS, BoxesScene, pair_at, render, split_of, tower
from chiasm.data.opening import open_dataset

NUM_PAIRS = 120
BOXES = BoxesConfig(train_pictures=60, eval_pictures=20, questions_per_picture=4)


@pytest.fixture(scope="module")
def pictures() -> list[BoxesScene]:
    return [picture for number in range(NUM_PAIRS) for picture in pair_at("train", number, 0)]


def test_pixels_show_the_items(pictures: list[BoxesScene]) -> None:
    """Guards against an item drawn elsewhere, in another colour, shape or size, over another, or not at all."""
    # Area of a triangle is half of its box, of a circle pi / 4 of it.
    share = {"square": 1, "triangle": 0.5, "circle": np.pi / 4}
    for picture in pictures:
        image = render(picture).astype(float)
        assert image.shape == (100, 400, 3)
        assert (image[:, 100:150] == 128).all() and (image[:, 250:300] == 128).all()
        for number, box in enumerate(picture.boxes):
            inside = image[:, number * 150 : number * 150 + 100]
            untouched = np.ones((100, 100), bool)
            for item in box:
                side = SIZES[item.size]
                area = np.s_[item.y_px : item.y_px + side, item.x_px : item.x_px + side]
                assert inside[area].shape[:2] == (side, side) and untouched[area].all(), "inside, and not overlapping"
                untouched[area] = False
                # Each pixel mixes the item's colour with the grey; the shares of the colour add up to its area.
                direction = np.array(COLORS[item.color]) - 211.0
                mixed = (inside[area] - 211) @ direction / (direction @ direction)
                assert mixed.sum() == pytest.approx(share[item.shape] * side**2, rel=0.03)
                corners = mixed[[0, 0, -1, -1], [0, -1, 0, -1]] > 0.5
                # A triangle stands on its base, points up.
                assert corners.tolist() == {
                    "square": [True] * 4, "circle": [False] * 4, "triangle": [False, False, True, True],
                }[item.shape]  # fmt: skip
            assert (inside[untouched] == 211).all(), "nothing else is drawn"


def test_counts_are_those_of_the_published_pictures(pictures: list[BoxesScene]) -> None:
    """Stated: towers of 1 to 4 blocks, in two pictures of three, or 1 to 7 strewn items in a box.

    Items gather at the right wall and the bottom, as often as their size says.
    """
    kinds = Counter(picture.kind for picture in pictures)
    assert 0.5 < kinds["tower"] / len(pictures) < 0.8
    strewn = [item for picture in pictures if picture.kind == "scatter" for box in picture.boxes for item in box]
    for picture in pictures:
        for box in picture.boxes:
            if picture.kind == "tower":
                assert 1 <= len(box) <= 4
                places = [(item.x_px, item.y_px, item.size, item.shape) for item in box]
                assert places == [(40, y, "medium", "square") for y in (80, 59, 38, 17)][: len(box)]
            else:
                assert 1 <= len(box) <= 7
    for size, side in SIZES.items():
        found = [item for item in strewn if item.size == size]
        at_right = sum(item.x_px == 100 - side for item in found) / len(found)
        at_left = sum(item.x_px == 0 for item in found) / len(found)
        assert at_right == pytest.approx(side / 100, abs=0.08) and at_left < 0.06
    assert all(0.25 < share / len(strewn) < 0.42 for share in Counter(item.color for item in strewn).values())


def test_pairs_differ_and_half_of_them_share_their_items() -> None:
    """Guards against a pair that no statement can tell apart, and against pairs that counting always tells apart."""
    shared = 0
    for number in range(NUM_PAIRS):
        one, other = pair_at("val", number, 3)
        assert one.kind == other.kind

        def looks(picture: BoxesScene) -> list[tuple[str, str, str]]:
            return sorted((item.size, item.color, item.shape) for box in picture.boxes for item in box)

        def by_box(picture: BoxesScene) -> list[list[tuple[str, str, str]]]:
            boxes = [[(item.size, item.color, item.shape) for item in box] for box in picture.boxes]
            return sorted(boxes if picture.kind == "tower" else [sorted(box) for box in boxes])

        assert by_box(one) != by_box(other)
        shared += looks(one) == looks(other)
    assert 0.3 < shared / NUM_PAIRS < 0.65


def test_splits_have_no_picture_in_common() -> None:
    """Guards against a tower picture that is trained on and tested on, in this or another order of its boxes."""
    shown = {
        split: {
            tuple(sorted(picture.boxes)) for seed in (0, 1) for n in range(60) for picture in pair_at(split, n, seed)
        }
        for split in SPLITS
    }
    assert not shown["train"] & shown["val"] and not shown["train"] & shown["test"]
    assert not shown["val"] & shown["test"]
    picture = pair_at("val", 0, 0)[0]
    for boxes in permutations(picture.boxes):
        assert split_of(picture._replace(boxes=boxes)) == "val"
    everything = Counter(
        split_of(BoxesScene("tower", (tower([a]), tower([b, c]), tower([d, e]))))
        for a in COLORS for b in COLORS for c in COLORS for d in COLORS for e in COLORS
    )  # fmt: skip
    assert 0.02 < everything["val"] / everything.total() < 0.12


def test_examples_depend_on_their_number_alone() -> None:
    """Guards against state, and against statements or pictures that are the same in every epoch, seed or split."""
    first, again = open_dataset(BOXES, "train", 0), open_dataset(BOXES, "train", 0)

    def shown(dataset: object, index: int, epoch: int) -> tuple[object, ...]:
        example = dataset.example(index, epoch)  # type: ignore[attr-defined]
        return example.inputs["image"].content_key(), example.questions

    forwards = [shown(first, index, 1) for index in range(8)]
    assert forwards == [shown(again, index, 1) for index in reversed(range(8))][::-1]
    for index in range(8):
        now, then = shown(first, index, 0), shown(first, index, 1)
        assert now[0] == then[0] and now[1] != then[1]
    assert shown(open_dataset(BOXES, "train", 1), 0, 0)[0] != shown(first, 0, 0)[0]
    assert len(first) == 60 and len(open_dataset(BOXES, "val", 0)) == 20
    assert len({first.example(index).id for index in range(60)}) == 60
    with pytest.raises(InputError, match="'zh'"):
        open_dataset(BoxesConfig(languages=("zh",), train_pictures=2), "train", 0)
    with pytest.raises(InputError, match="did you mean 'test'"):
        open_dataset(BOXES, "tset", 0)


def test_published_pictures_are_drawn_again(published_boxes: list[Any]) -> None:
    """Guards against other colours, gaps, sizes or curves: towers to the pixel, strewn items to 0.04 of 255 levels."""
    errors: dict[str, list[float]] = {"tower": [], "scatter": []}
    for one in published_boxes[::3]:
        real = np.asarray(Image.open(one.path).convert("RGB")).astype(float)
        errors[one.picture.kind].append(float(np.abs(render(one.picture) - real).mean()))
    assert len(errors["tower"]) > 200 and max(errors["tower"]) == 0
    assert np.mean(errors["scatter"]) < 0.04 and max(errors["scatter"]) < 0.15
