"""`Model.draw`: images by caption and seed, completion, inpainting, the best of many, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.errors import InputError, MissingTaskError
from chiasm.core.types import IMAGE
from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.drawings import MOST_IMAGES, Wish, best, check_apart
from chiasm.serve.engine import Model
from drawing_pipeline import build, scene_examples

CAPTION = "a large red circle top left"


@pytest.fixture(scope="module")
def drawer() -> Model:
    return Model(build())


class Reddest:
    """Ranks images by their red; stands in for a model of the task matching."""

    def __init__(self, pipeline: Pipeline, has_probability: bool = True) -> None:
        self.pipeline, self.has_probability = pipeline, has_probability

    def match(self, images: list[np.ndarray], texts: list[str]) -> list[Any]:
        reds = [float(image[..., 0].mean()) / 255 for image in images]
        pairs = [(None, red) if self.has_probability else (red, None) for red in reds]
        return [SimpleNamespace(similarity=cosine, probability=chance) for cosine, chance in pairs]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_images_of_each_caption_follow_each_other(drawer: Model) -> None:
    """Guards against seeds that repeat, captions that are interleaved, and a lone image that differs."""
    images = drawer.draw([CAPTION, "左上有大的红色圆形"], 2, seed=5, guidance=2)
    assert [(one.info["caption"], one.info["seed"]) for one in images] == [
        (CAPTION, 5),
        (CAPTION, 6),
        ("左上有大的红色圆形", 5),
        ("左上有大的红色圆形", 6),
    ]
    (alone,) = drawer.draw(CAPTION, seed=6, guidance=2)
    assert isinstance(alone, Image.Image) and alone.mode == "RGB" and alone.size == (48, 48)
    assert pixels(alone).tobytes() == pixels(images[1]).tobytes() != pixels(images[0]).tobytes()
    assert 0 < alone.info["probability"] < 1 and alone.info["remarks"] == []


def test_the_runs_own_sampling_is_kept_where_nothing_is_asked(drawer: Model) -> None:
    """Guards against a key that resets the others, and a whole number that is refused."""
    own = drawer.sampling()
    changed = drawer.sampling(top_k=7, guidance=2, temperature=None)
    assert changed == replace(own, top_k=7, guidance=2.0) and isinstance(changed.guidance, float)
    greedy = drawer.draw(CAPTION, 3, temperature=0)
    assert len({pixels(one).tobytes() for one in greedy}) == 1


def cells(image: Image.Image) -> list[bytes]:
    """The nine cells of an image, row by row."""
    grid = pixels(image).reshape(3, 16, 3, 16, 3).transpose(0, 2, 1, 3, 4)
    return [cell.tobytes() for row in grid for cell in row]


@pytest.mark.parametrize("kept", [None, 0, 2])
def test_rows_of_an_image_are_kept(drawer: Model, kept: int | None) -> None:
    """Guards against a completion that changes what was given; half of three rows is one."""
    start = Image.fromarray(scene_examples()[2].inputs[IMAGE].load())
    (made,) = drawer.draw(CAPTION, start=start, keep_rows=kept)
    count = 3 * (1 if kept is None else kept)
    assert cells(made)[:count] == cells(start)[:count] and cells(made)[count:] != cells(start)[count:]


def test_a_masked_part_is_drawn_anew(drawer: Model) -> None:
    """Guards against a mask that is inverted: all but the white part stays, to the pixel."""
    start = Image.fromarray(scene_examples()[3].inputs[IMAGE].load())
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (16, 16, 48, 32))
    made = drawer.draw("a small blue square right", 4, start=start, mask=mask)
    kept = [0, 1, 2, 3, 6, 7, 8]
    for one in made:
        assert [cells(one)[place] for place in kept] == [cells(start)[place] for place in kept]
    assert len({pixels(one).tobytes() for one in made}) > 1


def test_without_a_caption_an_image_may_be_varied(drawer: Model) -> None:
    """Guards against words that a variation must be given."""
    start = Image.fromarray(scene_examples()[2].inputs[IMAGE].load())
    (made,) = drawer.draw("", start=start, keep_rows=2)
    assert cells(made)[:6] == cells(start)[:6]


@pytest.mark.parametrize("has_probability", [True, False])
def test_the_best_of_many_are_kept(drawer: Model, has_probability: bool) -> None:
    """Guards against ranks over all captions, the worst first, and scores that belong to another image."""
    captions = [CAPTION, "a small blue square right"]
    ranker = Reddest(drawer.pipeline, has_probability)
    kept = drawer.draw(captions, 2, best_of=6, rank_by=ranker)
    every = drawer.draw(captions, 6)
    assert [one.info["caption"] for one in kept] == [captions[0]] * 2 + [captions[1]] * 2
    for number in range(2):
        own = every[6 * number : 6 * number + 6]
        reds = sorted(((float(pixels(one)[..., 0].mean()) / 255, one.info["seed"]) for one in own), reverse=True)
        found = [(one.info["rank_score"], one.info["seed"]) for one in kept[2 * number : 2 * number + 2]]
        assert [score for score, _ in found] == pytest.approx([score for score, _ in reds[:2]])


def test_ties_go_to_the_earlier_seed(drawer: Model) -> None:
    """Guards against an order that depends on the sort."""
    found = drawer.drawings([CAPTION], Wish(n=3))
    same = [replace(one, image=np.zeros((2, 2, 3), dtype=np.uint8)) for one in found]
    assert [one.evidence["seed"] for one in best(same, Reddest(drawer.pipeline), 3, 2)] == [0, 1]


def test_images_are_not_judged_by_what_ranked_them(drawer: Model) -> None:
    """Guards against a judge that is a copy of the ranking model, under another path."""
    copy = Reddest(build())
    with pytest.raises(InputError, match="ranked and judged by the same"):
        check_apart(Reddest(drawer.pipeline), copy)
    with torch.no_grad():
        copy.pipeline.model.heads["drawing"].padding.add_(1e-3)
    check_apart(Reddest(drawer.pipeline), copy)


@pytest.mark.parametrize("is_completed", [False, True])
def test_progress_counts_every_part(drawer: Model, is_completed: bool) -> None:
    """Guards against a bar that ends at a half, or runs beyond its end."""
    start = Image.fromarray(scene_examples()[2].inputs[IMAGE].load())
    wish = Wish(n=3, start=start, keep_rows=1) if is_completed else Wish(n=40)
    seen: list[tuple[int, int]] = []
    shown: list[int] = []
    drawer.drawings(
        [CAPTION], wish, lambda done, total: seen.append((done, total)), lambda place, _: shown.append(place)
    )
    first, parts = (3, 1) if is_completed else (0, 2)
    total = (9 - first) * parts
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert shown == list(range(first + 1, 10)) * parts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"n": 0}, "0 images of a caption"),
        ({"seed": -1}, "the seed -1"),
        ({"n": MOST_IMAGES + 1}, "images in one call"),
        ({"n": 4, "best_of": 2, "rank_by": SimpleNamespace()}, "the best 4 of 2"),
        ({"best_of": 2}, "only one of best_of and rank_by"),
        ({"rank_by": SimpleNamespace()}, "only one of best_of and rank_by"),
        ({"keep_rows": 1}, "no image to keep from"),
        ({"mask": "a.png"}, "no image to keep from"),
        ({"start": "a.png", "mask": "b.png", "keep_rows": 1}, "rows to keep and a mask"),
    ],
)
def test_wishes_that_contradict_themselves_are_refused(words: dict[str, Any], message: str) -> None:
    """Guards against an argument that is silently ignored."""
    with pytest.raises(InputError, match=message):
        Wish(**words).check(1)


@pytest.mark.parametrize("caption", ["ein roter Kreis oben links", "красный круг", "elephants", "  ", ""])
def test_a_caption_of_another_language_is_refused(drawer: Model, caption: str) -> None:
    """Guards against any image for words that training did not have."""
    with pytest.raises(InputError, match="the caption"):
        drawer.draw(caption)


def test_a_word_that_training_had_not_is_said(drawer: Model) -> None:
    """Guards against a drawing of half a caption that passes for one of the whole."""
    (found,) = drawer.drawings(["a large red elephant top left"], Wish())
    assert found.domain is not None and found.domain.unknown_words == ("elephant",)
    assert found.domain.text_distance is not None and found.domain.text_distance > 0


def test_a_run_that_cannot_draw_says_so(pipeline: Pipeline, tmp_path: Path) -> None:
    """Guards against an AttributeError of a run of other tasks."""
    with pytest.raises(MissingTaskError, match="drawing"):
        Model(pipeline).draw(CAPTION)
