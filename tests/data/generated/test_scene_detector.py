"""The detector of scenes: right on every real scene, red on planted wrong ones."""

from dataclasses import replace

import numpy as np
import pytest

from chiasm.core.types import Depictable
from chiasm.data.generated.scene_detector import UNREADABLE, detect
from chiasm.data.generated.scene_language import SceneTruth
from chiasm.data.generated.scenes import BACKGROUND, COLORS, SHAPES, SIZES, SPLITS, Scene, SceneObject, render, scene_at


def scenes(count: int) -> list[Scene]:
    return [scene_at(split, number, 5) for split in SPLITS for number in range(count)]


def test_real_scenes_are_read_without_a_mistake() -> None:
    """Guards against a judge whose own mistakes pass as those of what it judges."""
    wrong = [scene for scene in scenes(250) if sorted(detect(render(scene))) != sorted(o.described for o in scene)]
    assert not wrong


def test_noise_and_another_size_do_not_mislead_it() -> None:
    """Guards against a judge that needs pixels to be exact: reconstructions never are."""
    rng = np.random.default_rng(0)
    for scene in scenes(20):
        image = render(scene)
        noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        big = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
        for shown in (noisy, big):
            assert SceneTruth(scene).overlap(shown) == (len(scene), len(scene))


@pytest.mark.parametrize("attribute", ["size", "color", "shape", "row"])
def test_a_planted_mistake_is_seen(attribute: str) -> None:
    """The null control: each attribute of one object changed, in every scene."""
    others = {"size": tuple(SIZES), "color": tuple(COLORS), "shape": SHAPES, "row": (0, 1, 2)}[attribute]
    for number, scene in enumerate(scenes(25)):
        thing = scene[number % len(scene)]
        free = [one for one in others if one != getattr(thing, attribute)]
        if attribute == "row":
            taken = {(one.row, one.column) for one in scene}
            free = [row for row in free if (row, thing.column) not in taken]
            if not free:
                continue
        changed: SceneObject = replace(thing, **{attribute: free[number % len(free)]})
        wrong = tuple(changed if one is thing else one for one in scene)
        assert SceneTruth(scene).overlap(render(wrong)) == (len(scene) - 1, len(scene) + 1)


def test_a_missing_and_a_further_object_are_seen() -> None:
    """Guards against a judge that only looks where the caption says."""
    scene = scene_at("train", 3, 0)
    truth, count = SceneTruth(scene), len(scene)
    assert isinstance(truth, Depictable)
    assert truth.overlap(render(scene[1:])) == (count - 1, count)
    cell = next((r, c) for r in range(3) for c in range(3) if (r, c) not in {(o.row, o.column) for o in scene})
    further = SceneObject(*cell, "large", "red", "circle")
    assert truth.overlap(render((*scene, further))) == (count, count + 1)


def test_what_is_no_scene_is_unreadable() -> None:
    """Guards against a nearest template in noise."""
    rng = np.random.default_rng(1)
    found = detect(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    assert len(found) == 9 and all(one[2:] == UNREADABLE for one in found)
    assert detect(np.full((48, 48, 3), BACKGROUND, dtype=np.uint8)) == ()
