"""Runs that train an image tokenizer: resumed bit for bit, in bf16, in parts, and frozen for a next run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small import start, stopped_and_whole

from chiasm.core.types import IMAGE
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.data.opening import open_dataset
from chiasm.models.codebooks import QUANTIZERS
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.pipeline.batching import input_values
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.reconstruction import Reconstruction, ReconstructionConfig, image_tokenizer
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.trainer import Trainer


def config(kind: str = "vector", **train: Any) -> RunConfig:
    """Eleven steps: the weights start after 1, the codes after 4."""
    image = ImageCodesConfig(stride_px=16, width=24, decoder_blocks=1, continuous_steps=4, quantizer=QUANTIZERS[kind]())
    return RunConfig(
        recipe="small",
        data=ScenesConfig(train_pictures=48, eval_pictures=8),
        model=ModelConfig(dim=16, image=image, text=TransformerTextConfig(layers=1, max_tokens=48, vocabulary=300)),
        tasks={"reconstruction": ReconstructionConfig()},
        train=TrainConfig(
            **{
                "steps": 11,
                "batch_size": 16,
                "validate_every": 4,
                "checkpoint_every": 3,
                "keep_checkpoints": 9,
                "precision": "fp32",
                **train,
            }
        ),
    )


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_a_resumed_run_is_the_same_to_the_last_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a temperature, moving averages or ages of codes that a checkpoint does not have."""
    parts, whole = stopped_and_whole(config(kind, accumulate=2, ema_decay=0.9), tmp_path, monkeypatch, at=6)
    assert parts == whole


def test_the_best_weights_have_the_codebook_of_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an encoder of the best validation with the codes of the last step."""
    kept: dict[int, torch.Tensor] = {}
    inner = Trainer.step

    def watching(self: Trainer, batches: Any) -> dict[str, float]:
        row = inner(self, batches)
        kept[self.progress.step + 1] = image_tokenizer(self.pipeline.model).quantizer.book.detach().clone()
        return row

    monkeypatch.setattr(Trainer, "step", watching)
    start(config(steps=12, lr=0.03), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max((row for row in rows if "val/psnr" in row), key=lambda row: row["val/psnr"])
    book = safetensors.torch.load_file(tmp_path / "model.safetensors")["image_encoder.quantizer.book"]
    assert [step for step, value in kept.items() if torch.equal(value, book)] == [best["step"]]


def test_bf16_keeps_its_codes(tmp_path: Path) -> None:
    """Guards against codes that change in the computing copy alone."""
    finished, _ = start(config(precision="bf16"), tmp_path)
    assert finished is not None
    tower = image_tokenizer(Pipeline.load(tmp_path, torch.device("cpu")).model)
    assert tower.has_started and int(tower.steps) == 11 and tower.quantizer.size.sum() > 0
    scores = finished.measured.outcome.scores
    assert scores["psnr"].value > 20 and scores["codes_used"].value > 10


def test_a_frozen_tokenizer_gives_its_codes_from_the_cache(tmp_path: Path) -> None:
    """Guards against codes that change between the cache's float16 and the tower's own."""
    start(config(), tmp_path / "run")
    pipeline = Pipeline.load(tmp_path / "run", torch.device("cpu"))
    tower = image_tokenizer(pipeline.model)
    dataset = open_dataset(pipeline.config.data, "val", 0)
    examples = [dataset.example(index) for index in range(8)]
    direct = tower.ids_of(pipeline.encode_images([one.inputs[IMAGE] for one in examples]).values)
    model = replace(pipeline.config.model, image=replace(pipeline.config.model.image, frozen=True, grid=True))
    frozen = Pipeline(replace(pipeline.config, model=model, tasks={}), pipeline.model, pipeline.codec, pipeline.device)
    cached = prepare(frozen, dataset, tmp_path / "cache", lambda done, total, what: None)
    stored = [cached.example(index) for index in range(8)]
    values = input_values(stored, model, 1, frozen.resizing)[IMAGE]
    assert torch.equal(tower.ids_of(values.values), direct)
    assert torch.equal(tower.ids_of(frozen.encode({IMAGE: values})[IMAGE].values), direct)
    assert torch.equal(tower.ids_of(values.values.bfloat16()), direct)


def test_a_collapse_is_said_during_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an alarm that no validation prints."""
    monkeypatch.setattr(Reconstruction, "alarm", lambda self, model, scores: f"collapse {len(scores)}")
    _, said = start(config(steps=4), tmp_path)
    assert said.count("collapse 4") == 1
