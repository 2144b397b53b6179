"""Sort-of-CLEVR as published, checked from the pixels of its pictures."""

import random
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from chiasm.data.generated.sort_of_clevr import (
    COLORS,
    IMAGE_SIZE_PX,
    RADIUS_PX,
    SortOfClevrConfig,
    questions,
    render,
    scene_at,
    transformed,
)
from chiasm.data.opening import open_dataset

NUM_PICTURES = 50
FIRST = [
    ("square", 65, 64),
    ("square", 14, 27),
    ("square", 38, 44),
    ("circle", 50, 21),
    ("square", 19, 6),
    ("square", 18, 65),
]
ZH = {
    "红色": "red", "绿色": "green", "蓝色": "blue", "橙色": "orange", "灰色": "gray", "黄色": "yellow",
    "方形": "square", "圆形": "circle", "是": "yes", "不是": "no",
}  # fmt: skip


@dataclass
class Blob:
    """What can be seen of one object."""

    x: float
    y: float
    shape: str
    area: int


def see(image: np.ndarray) -> dict[str, Blob]:
    """Find the objects: pixels of a colour, their centre, and whether they fill their box (a circle fills 0.67)."""
    found = {}
    for color, paint in COLORS.items():
        ys, xs = np.nonzero((image == np.array(paint)).all(-1))
        area, box = len(xs), (np.ptp(xs) + 1) * (np.ptp(ys) + 1)
        found[color] = Blob(xs.mean(), ys.mean(), "square" if area == box else "circle", area)
    return found


def slow_answer(seen: dict[str, Blob], text: str) -> tuple[str, str]:
    """Kind and answer, from what is seen and the question's words."""
    words = text if text.isascii() else "".join(ZH.get(part, part) for part in re.split(f"({'|'.join(ZH)})", text))
    color = next(name for name in COLORS if name in words)
    me, side = seen[color], 75
    distances = {name: (b.x - me.x) ** 2 + (b.y - me.y) ** 2 for name, b in seen.items() if name != color}
    if "closest" in text or "最近" in text:
        return "relational", seen[min(distances, key=lambda name: distances[name])].shape
    if "furthest" in text or "最远" in text:
        return "relational", seen[max(distances, key=lambda name: distances[name])].shape
    if "how many" in text or "几个" in text:
        return "relational", str(sum(blob.shape == me.shape for blob in seen.values()))
    if "left half" in text or "左半边" in text:
        return "non-relational", "yes" if me.x < side / 2 else "no"
    if "bottom half" in text or "下半边" in text:
        return "non-relational", "yes" if me.y > side / 2 else "no"
    assert "what shape" in text or "什么形状" in text, text
    return "non-relational", me.shape


@pytest.mark.parametrize("language", ["en", "zh"])
def test_answers_follow_from_the_pixels(language: str) -> None:
    """Guards against a wrong answer, swapped axes, and a picture that shows other objects than were asked about."""
    for index in range(NUM_PICTURES):
        picture = scene_at("test", index, 0)
        seen = see(render(picture))
        for question in questions(picture, "test", index, 0, language):
            answer = ZH.get(question.answers[0], question.answers[0])
            assert (question.kind, answer) == slow_answer(seen, question.text), (index, question)


def test_pictures_are_as_published() -> None:
    """Stated: 75 x 75 pixels, six objects of six colours, squares and circles of one size, none overlapping."""
    shapes = Counter()
    for index in range(NUM_PICTURES):
        image = render(scene_at("train", index, 0))
        assert image.shape == (75, 75, 3) and image.dtype == np.uint8
        seen = see(image)
        assert len(seen) == 6
        # A covered object would lack pixels of its 11 x 11 box or of its disc.
        assert {blob.area for blob in seen.values() if blob.shape == "square"} <= {121}
        assert {blob.area for blob in seen.values() if blob.shape == "circle"} <= {81}
        shapes.update(blob.shape for blob in seen.values())
        painted = sum(blob.area for blob in seen.values())
        assert (image != 255).any(-1).sum() == painted, "nothing else is drawn"
    assert 0.35 < shapes["square"] / shapes.total() < 0.65


def test_twenty_questions_a_picture() -> None:
    """Stated: ten relational and ten non-relational questions; all six subtypes and six colours occur."""
    texts = []
    for index in range(NUM_PICTURES):
        asked = questions(scene_at("train", index, 0), "train", index, 0)
        assert [question.kind for question in asked] == ["relational"] * 10 + ["non-relational"] * 10
        texts += [question.text for question in asked]
    assert len(set(texts)) == 36


def test_number_of_pictures() -> None:
    """Stated: 9,800 for training and 200 for testing; a smaller number can be asked for in training alone."""
    full = SortOfClevrConfig()
    assert {split: len(open_dataset(full, split, 0)) for split in ("train", "val", "test")} == {
        "train": 9800, "val": 200, "test": 200,
    }  # fmt: skip
    few = SortOfClevrConfig(train_pictures=64)
    assert len(open_dataset(few, "train", 0)) == 64 and len(open_dataset(few, "test", 0)) == 200


def test_pictures_never_change_and_splits_differ() -> None:
    """A stated value, drawn when the format was fixed; and no test picture is among the first of training."""
    first = scene_at("train", 0, 0)
    assert [(one.shape, one.x_px, one.y_px) for one in first] == FIRST
    train = {scene_at("train", index, 0) for index in range(300)}
    test = {scene_at("test", index, 0) for index in range(200)}
    assert len(train) == 300 and len(test) == 200 and not train & test


def test_symmetries_keep_what_relations_depend_on() -> None:
    """Guards against a mirrored or recoloured picture whose objects overlap, leave the picture, or change distance."""
    rng = random.Random(5)
    for index in range(40):
        before = scene_at("train", index, 0)
        after = transformed(before, rng)
        assert [thing.color for thing in after] == list(COLORS)
        distances = [
            sorted((a.distance2(b), a.shape, b.shape) for a in picture for b in picture) for picture in (before, after)
        ]
        assert distances[0] == distances[1]
        edge = RADIUS_PX
        last = IMAGE_SIZE_PX - 1 - edge
        assert all(edge <= thing.x_px <= last and edge <= thing.y_px <= last for thing in after)


def test_symmetries_vary_training_alone() -> None:
    """Guards against pictures of validation or test that change, and against a training picture that never does."""
    config = SortOfClevrConfig(symmetries=True)
    training, test = (open_dataset(config, split, 0) for split in ("train", "test"))
    shown = [training.example(3, epoch).inputs["image"].content_key() for epoch in range(4)]
    assert len(set(shown)) == 4
    assert training.example(3, 2).inputs["image"].content_key() == shown[2]
    assert test.example(3, 2).inputs["image"].content_key() == test.example(3).inputs["image"].content_key()
