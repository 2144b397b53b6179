"""Memorisation: a training image is found as its own nearest, with and without a cache of its tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.core.types import IMAGE
from chiasm.data.dataset import Dataset, ListDataset
from chiasm.data.ledger import Ledger
from chiasm.evaluate import memorisation
from chiasm.evaluate.memorisation import nearest_training
from chiasm.pipeline.feature_cache import prepare
from drawing_pipeline import EXACT, build, scene_examples


def training() -> Dataset:
    ledger = Ledger()
    ledger.offer(24)
    ledger.use(24)
    return ListDataset("train", scene_examples(), ledger)


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_copy_of_a_training_image_is_found(is_cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a distance of another image, and a chunk whose places are counted from its own start."""
    monkeypatch.setattr(memorisation, "CHUNK", 7)
    pipeline = build(EXACT)
    dataset = prepare(pipeline, training(), tmp_path, lambda *_: None) if is_cached else training()
    images = [scene_examples()[number].inputs[IMAGE].load() for number in (3, 17)]
    copies = nearest_training(pipeline, dataset, images)
    assert [one.example.id for one in copies] == ["scene-train-3", "scene-train-17"]
    assert all(one.distance < 2e-3 and one.looked_at == 24 for one in copies)
    (other,) = nearest_training(pipeline, dataset, [scene_examples("test")[0].inputs[IMAGE].load()])
    assert other.distance > 0.01


def test_the_nearest_is_that_of_a_slow_search() -> None:
    """Guards against the farthest, and against a square that is not taken back."""
    pipeline = build(EXACT)
    images = [example.inputs[IMAGE].load() for example in scene_examples("test")[:4]]
    tokens = pipeline.encode_images([example.inputs[IMAGE] for example in scene_examples()]).values.flatten(1).numpy()
    drawn = pipeline.encode_images([example.inputs[IMAGE] for example in scene_examples("test")[:4]])
    for found, row in zip(nearest_training(pipeline, training(), images), drawn.values.flatten(1).numpy(), strict=True):
        apart = [float(np.sqrt(((row - one) ** 2).sum() / (row**2).sum())) for one in tokens]
        assert found.distance == pytest.approx(min(apart), rel=1e-4)


def test_no_image_looks_at_nothing() -> None:
    """Guards against minutes of comparison for a run that draws nothing."""
    broken = replace(scene_examples()[0], inputs={})
    assert nearest_training(build(EXACT), ListDataset("train", [broken], Ledger()), []) == []
