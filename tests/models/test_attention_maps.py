"""Where a model looked: shares that sum to one, from the attention that made the answer, at the right place."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.types import IMAGE, Example
from chiasm.data.opening import open_dataset
from chiasm.models.attention_maps import as_grid
from chiasm.models.encoders import IMAGE_ENCODERS
from chiasm.models.encoders.folder import FolderImageConfig
from chiasm.models.transformer import Attention, attend, attention_weights, watching
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import Query, queries_of
from chiasm.train.config import RunConfig

ATTENTIVE = ("cross_attention", "align_then_fuse", "merged_attention", "co_attention", "resampler")


def config(fusion: str, **image: object) -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    kind = IMAGE_ENCODERS[str(image.pop("kind", "conv"))]
    tower = kind(channels=(4, 8, 8), size_px=24, **image)
    text = replace(demo.model.text, summary_tokens=0)
    return replace(demo, model=replace(demo.model, dim=16, embedding_dim=16, fusion=fusion, image=tower, text=text))


@pytest.fixture(scope="module")
def examples() -> Sequence[Example]:
    dataset = open_dataset(config("sum").data, "train", 0)
    return [dataset.example(number) for number in range(8)]


def build(examples: Sequence[Example], fusion: str, **image: object) -> Pipeline:
    return Pipeline.build(config(fusion, **image), examples, torch.device("cpu"))


def asked(pipeline: Pipeline, examples: Sequence[Example]) -> list:
    tokens = pipeline.encode_images([example.inputs["image"] for example in examples])
    questions = ["is there a red circle?", "有几个圆形？"]
    task = pipeline.tasks["vqa"]
    return [*task.heat_maps(pipeline.model, pipeline.codec, {IMAGE: tokens}, queries_of(questions, [0, 3]))]  # type: ignore[attr-defined]


def test_weights_are_those_that_mix_values() -> None:
    """Guards against a picture of some other attention than the one that was used."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    allowed = torch.rand(2, 1, 1, 7) > 0.3
    weights = attention_weights(query, key, allowed)
    torch.testing.assert_close(weights @ value, attend(query, key, value, allowed))
    block = Attention(8, 2)
    with watching([block]) as notes:
        block(torch.randn(2, 3, 8), torch.randn(2, 4, 8))
    assert notes[block] is not None and notes[block].shape == (2, 2, 3, 4)
    block(torch.randn(1, 1, 8))
    assert notes[block].shape == (2, 2, 3, 4)


@pytest.mark.parametrize("fusion", ATTENTIVE)
@pytest.mark.parametrize("queries", [0, 3])
def test_every_attentive_fusion_says_where(examples: Sequence[Example], fusion: str, queries: int) -> None:
    """Guards against a fusion that names the wrong attention, and padding that is counted as a word."""
    pipeline = build(examples, fusion, pool_queries=queries)
    maps = asked(pipeline, examples)
    for one in maps:
        grid = np.array(one["grid"])
        assert grid.shape == (3, 3) and grid.sum() == pytest.approx(1) and (grid >= 0).all()
        assert one["covers"] == "whole" and grid.std() > 0
    alone = pipeline.tasks["vqa"].heat_maps(  # type: ignore[attr-defined]
        pipeline.model,
        pipeline.codec,
        {IMAGE: pipeline.encode_images([examples[3].inputs["image"]])},
        [Query(0, "有几个圆形？")],
    )
    np.testing.assert_allclose(alone[0]["grid"], maps[1]["grid"], atol=1e-6)


@pytest.mark.parametrize("fusion", ["sum", "film", "bilinear"])
def test_fusion_without_attention_says_nothing(examples: Sequence[Example], fusion: str) -> None:
    """Guards against an invented picture."""
    assert asked(build(examples, fusion), examples) == [None, None]


def test_place_of_a_token_is_its_place_in_the_picture(examples: Sequence[Example]) -> None:
    """Guards against a map that is transposed or shifted: one token is made the only one that is looked at."""
    pipeline = build(examples, "cross_attention")
    tokens = pipeline.encode_images([examples[0].inputs["image"]])
    is_real = torch.zeros_like(tokens.is_real)
    is_real[0, 5] = True
    task = pipeline.tasks["vqa"]
    (found,) = task.heat_maps(  # type: ignore[attr-defined]
        pipeline.model, pipeline.codec, {IMAGE: tokens._replace(is_real=is_real)}, [Query(0, "is there a circle?")]
    )
    assert np.array(found["grid"]).argmax() == 5 and found["grid"][1][2] == pytest.approx(1)


@pytest.mark.parametrize("queries", [0, 3])
def test_keypoints_look_where_they_were_gathered(examples: Sequence[Example], queries: int) -> None:
    """Guards against a map of points in the place of a map of the picture: one point is made the only one."""
    pipeline = build(examples, "cross_attention", kind="keypoints", points=4, pool_queries=queries)
    tokens = pipeline.encode_images([example.inputs["image"] for example in examples[:2]])
    is_real = torch.zeros_like(tokens.is_real)
    is_real[:, 2] = True
    task = pipeline.tasks["vqa"]
    maps = task.heat_maps(  # type: ignore[attr-defined]
        pipeline.model,
        pipeline.codec,
        {IMAGE: tokens._replace(is_real=is_real)},
        queries_of(["is there a circle?"] * 2, [1, 0]),
    )
    assert tokens.places is not None and tokens.places.shape == (2, 4, 6, 6)
    for found, row in zip(maps, (1, 0), strict=True):
        assert found["covers"] == "whole"
        np.testing.assert_allclose(found["grid"], tokens.places[row, 2], atol=1e-6)


def test_places_are_unknown_of_tokens_from_a_cache(examples: Sequence[Example]) -> None:
    """Guards against points of the picture drawn as a grid where it is not said what they were gathered from."""
    pipeline = build(examples, "cross_attention", kind="keypoints", points=4)
    tokens = pipeline.encode_images([examples[0].inputs["image"]])
    task = pipeline.tasks["vqa"]
    known = tokens._replace(places=None)
    assert task.heat_maps(pipeline.model, pipeline.codec, {IMAGE: known}, [Query(0, "is there a circle?")]) == [None]  # type: ignore[attr-defined]


def test_captions_say_where(examples: Sequence[Example]) -> None:
    """Guards against a map of the start token alone."""
    pipeline = build(examples, "cross_attention")
    tokens = pipeline.encode_images([example.inputs["image"] for example in examples[:3]])
    task = pipeline.tasks["captioning"]
    said = task.predict(
        pipeline.model,
        pipeline.codec,
        {IMAGE: tokens},
        [Query(row, language="en") for row in range(len(tokens.pooled))],
    )  # type: ignore[attr-defined]
    maps = task.heat_maps(pipeline.model, pipeline.codec, {IMAGE: tokens}, said)  # type: ignore[attr-defined]
    assert all(np.sum(one["grid"]) == pytest.approx(1) for one in maps) and maps[0] != maps[1]


@pytest.mark.parametrize(("tokens", "shape"), [(49, (7, 7)), (50, (7, 7)), (201, (14, 14)), (3, (1, 1)), (30, (5, 5))])
def test_grids_of_towers_from_elsewhere(tokens: int, shape: tuple[int, int]) -> None:
    """Guards against class and register tokens that are drawn as places."""
    shares = torch.zeros(1, tokens)
    shares[0, -1], shares[0, 0] = 0.25, 0.75
    grid = as_grid(shares, FolderImageConfig(size_px=224))
    assert grid is not None and grid.shape[1:] == shape
    assert grid[0, -1, -1].item() == pytest.approx(0.25 if tokens == 49 else 1)
