"""A retrieval run gets a second look: its vectors and index stay, and only what compares word by word is trained."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small import retrieval_alone, save_pictures, start

import chiasm
from chiasm.data.opening import open_dataset
from chiasm.recipes.table import find_recipe
from chiasm.serve.index import make_index, open_index
from chiasm.train.config import RunConfig


def second_look(base: Path) -> RunConfig:
    """The recipe's tasks and its choice of what is trained, on scenes; towers from scratch have no adapters."""
    config, recipe = retrieval_alone(), find_recipe("reranking")
    image = replace(config.model.image, frozen=True, grid=True)
    trainable = tuple(pattern for pattern in recipe.train.trainable if "adapter" not in pattern)
    return replace(
        config,
        init_from=str(base),
        primary_metric=recipe.primary_metric,
        model=replace(config.model, image=image, dropout=0.1),
        tasks=recipe.tasks,
        train=replace(config.train, trainable=trainable),
    )


def test_vectors_and_index_stay_and_the_second_look_is_trained(tmp_path: Path) -> None:
    """Guards against an index that is lost for a fusion head, and a head that stays as it began."""
    base, run = tmp_path / "base", tmp_path / "run"
    start(retrieval_alone(), base)
    start(second_look(base), run)
    before, after = (safetensors.torch.load_file(place / "model.safetensors") for place in (base, run))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    new = {name.split(".")[0] for name in after if name not in before}
    assert new == {"fusion", "heads"}
    old, model = chiasm.load(base), chiasm.load(run)
    assert model.pipeline.embedding_fingerprint() == old.pipeline.embedding_fingerprint()
    assert model.pipeline.image_fingerprint() != old.pipeline.image_fingerprint()  # what is cached differs
    scenes = open_dataset(model.pipeline.config.data, "test", 0)
    photos = tmp_path / "photos"
    paths = save_pictures(scenes, photos, 6)
    assert np.array_equal(old.encode_image(paths), model.encode_image(paths))
    make_index(tmp_path / "index", [photos], base)[0].store.close()
    words = scenes.example(0).captions[0].text
    with open_index(tmp_path / "index", model) as index:
        found = index.search(words, count=6, rerank=True)
    chances = [model.match([hit.path], [words])[0].probability for hit in found]
    scale = model.pipeline.model.logit_scale.exp().item()
    odds = [
        math.exp(scale * hit.similarity) * chance / (1 - chance) for hit, chance in zip(found, chances, strict=True)
    ]
    assert [hit.score for hit in found] == pytest.approx([one / sum(odds) for one in odds], rel=1e-4)
    assert odds == sorted(odds, reverse=True) and len(set(chances)) > 1
