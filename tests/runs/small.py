"""The smallest run that has everything a run can have, and the ways the tests of runs start and look at it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from chiasm.core.errors import Interrupted
from chiasm.data.dataset import Dataset
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.finish import Finished
from chiasm.train.run import run
from chiasm.train.trainer import Trainer


def small_config(**train: Any) -> RunConfig:
    """Three tasks on 48 scenes in batches of 16: an epoch is 3 steps, so that most checkpoints stand inside one."""
    return RunConfig(
        recipe="small",
        primary_metric="vqa_accuracy",
        data=ScenesConfig(languages=("en", "zh"), train_pictures=48, eval_pictures=8, questions_per_picture=3),
        model=ModelConfig(
            dim=16,
            heads=2,
            fusion_layers=1,
            decoder_layers=1,
            embedding_dim=16,
            projection_hidden=24,
            dropout=0.3,
            image=ConvConfig(size_px=24, channels=(8, 16, 16), layers=1),
            text=TransformerTextConfig(layers=1, max_tokens=48, vocabulary=300, summary_tokens=2),
        ),
        tasks={"retrieval": RetrievalConfig(weight=0.5), "vqa": VqaConfig(), "captioning": CaptioningConfig()},
        train=TrainConfig(
            **{
                "steps": 11,
                "batch_size": 16,
                "accumulate": 2,
                "exact_contrast": False,
                "lr": 3e-3,
                "ema_decay": 0.9,
                "validate_every": 4,
                "checkpoint_every": 3,
                "keep_checkpoints": 3,
                "precision": "fp32",
                **train,
            }
        ),
    )


def retrieval_alone(**train: Any) -> RunConfig:
    """Four steps of contrast alone, every word taking part."""
    config = small_config(**{"steps": 4, **train})
    return replace(
        config,
        primary_metric="text_to_image_R@1",
        model=replace(config.model, text=replace(config.model.text, summary_tokens=0)),
        tasks={"retrieval": RetrievalConfig()},
    )


def save_pictures(dataset: Dataset, folder: Path, count: int) -> list[Path]:
    """The first pictures of a generated set as files, in a new folder."""
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(dataset.example(number).inputs["image"].load()).save(path)
    return paths


def without_noise(config: RunConfig) -> RunConfig:
    """The same without dropout, for runs that must agree although they draw differently."""
    return replace(config, model=replace(config.model, dropout=0.0))


def distilling(**train: Any) -> RunConfig:
    """Contrast and hidden words that learn from the moving average too, and wrong pairs that are drawn."""
    config = small_config(**train)
    return replace(
        config,
        primary_metric="text_to_image_R@1",
        model=replace(config.model, text=replace(config.model.text, summary_tokens=0)),
        tasks={
            "retrieval": RetrievalConfig(weight=0.5, distil=0.4),
            "masked_language_modelling": MaskingConfig(distil=0.4),
            "matching": MatchingConfig(),
        },
    )


def start(config: RunConfig, folder: Path, resume: bool = False) -> tuple[Finished | None, str]:
    """Run, and return what was said to people beside the result."""
    said = io.StringIO()
    return run(config, folder, resume, Console(file=said, width=400)), said.getvalue()


def stopped_and_whole(
    config: RunConfig, place: Path, monkeypatch: pytest.MonkeyPatch, at: int = 2
) -> list[dict[str, bytes]]:
    """Traces of a run that was stopped at a step and went on, and of the same run in one piece."""
    start(config, place / "whole")
    step = Trainer.step

    def stopping(self: Trainer, batches: object) -> dict[str, float]:
        if self.progress.step == at:
            self.signals.reason = "interrupted"
        return step(self, batches)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        with pytest.raises(Interrupted):
            start(config, place / "parts")
    start(config, place / "parts", resume=True)
    return [traces(place / "parts"), traces(place / "whole")]


def weights_that_count(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a folder, less those that no output depends on.

    The softmax of attention takes no notice of a bias of all keys: its gradient is rounding alone, which Adam blows up
    to the size of a step.
    """
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if name.endswith("key_value.bias"):
            value[: len(value) // 2] = 0
    return weights


def traces(folder: Path) -> dict[str, bytes]:
    """The files of a finished run that must not depend on how often it was stopped.

    The run's own weights may be the best ones of an early validation, so those of its last step stand beside them.
    """
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl", "results.json")}
    last = max((folder / "checkpoints").glob("step-*"))
    return {**files, **{f"last {part}": (last / f"{part}.safetensors").read_bytes() for part in ("model", "ema")}}
