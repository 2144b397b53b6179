"""Whole runs that adapt a model: what is saved is an ordinary model, and what must not move does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small import small_config, start, stopped_and_whole

import chiasm
from chiasm.train.config import RunConfig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "run"
    start(small_config(steps=2), folder)
    return folder


def adapting(base: Path, **train: object) -> RunConfig:
    return replace(small_config(steps=4, **train), init_from=str(base))


def changes(before: Path, after: Path, tower: str) -> dict[str, torch.Tensor]:
    """Difference of every tensor of a tower between two run folders."""
    first, second = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (before, after))
    assert set(first) == set(second), "an adapted run saves the tensors of an ordinary one"
    return {name: second[name] - first[name] for name in first if name.startswith(tower)}


def test_lora_changes_matrices_by_a_low_rank_and_nothing_else(base: Path, tmp_path: Path) -> None:
    """Guards against own weights of a tower that move, against a merge that is lost, and against rank above r."""
    start(adapting(base, adapt="lora", lora_rank=2, ema_decay=0.0), tmp_path / "run")
    moved = 0
    both = [changes(base, tmp_path / "run", tower) for tower in ("image_encoder.", "text_encoder.")]
    for name, change in [pair for tower in both for pair in tower.items()]:
        if change.abs().max() == 0:
            continue
        assert name.endswith("weight") and change.ndim == 2, name
        values = torch.linalg.svdvals(change.double())
        assert values[0] > 1e-5 and values[2:].max() < 1e-5 * values[0].clamp(min=1), name
        moved += 1
    assert moved > 6
    assert chiasm.load(tmp_path / "run").tasks == ("retrieval", "vqa", "captioning")


def test_a_stopped_lora_run_goes_on_to_the_same_bits(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against low-rank parameters that a checkpoint forgets, and against a merge before the end."""
    config = adapting(base, adapt="lora", lora_rank=2)
    parts, whole = stopped_and_whole(config, tmp_path, monkeypatch)
    assert parts == whole


def test_projection_leaves_both_towers_as_they_are(base: Path, tmp_path: Path) -> None:
    """Guards against frozen towers that move, or that the run folder does not hold."""
    config = adapting(base, adapt="projection")
    config = replace(
        config,
        tasks={"retrieval": config.tasks["retrieval"]},
        primary_metric="text_to_image_R@1",
        model=replace(config.model, text=replace(config.model.text, summary_tokens=0)),
    )
    start(replace(config, train=replace(config.train, adapt="")), tmp_path / "free")
    start(replace(config, init_from=str(tmp_path / "free")), tmp_path / "run")
    for tower in ("image_encoder.", "text_encoder."):
        assert all(not change.any() for change in changes(tmp_path / "free", tmp_path / "run", tower).values())
    assert any(change.any() for change in changes(tmp_path / "free", tmp_path / "run", "image_projection").values())
    chiasm.load(tmp_path / "run")


def test_layers_wake_from_the_top(base: Path, tmp_path: Path) -> None:
    """Guards against gradual unfreezing that unfreezes from below, or all at once."""
    start(adapting(base, unfreeze_every=100, ema_decay=0.0), tmp_path / "run")
    moved = {name for name, change in changes(base, tmp_path / "run", "").items() if change.any()}
    towers = {name for name in moved if name.startswith(("image_encoder.", "text_encoder."))}
    assert towers < {name for name in changes(base, tmp_path / "run", "") if "_encoder." in name}
    assert not any(".0." in name for name in towers) and any(name.startswith("image_encoder") for name in towers)
