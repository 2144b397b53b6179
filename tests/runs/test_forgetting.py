"""Whole runs that adapt a model while a retention check measures what it knew before."""

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console
from small import small_config, start, traces

from chiasm.core.config import override
from chiasm.core.device import pick_device
from chiasm.core.errors import InputError, Interrupted
from chiasm.core.run_folder import MANIFEST
from chiasm.data.files import FilesConfig
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import open_prepared
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.config import RunConfig
from chiasm.train.trainer import Trainer

METRIC = "text_to_image_R@10"


def of_retrieval(**train: Any) -> RunConfig:
    config = small_config(**{"ema_decay": 0.0, "accumulate": 1, **train})
    model = replace(config.model, dropout=0.0, text=replace(config.model.text, summary_tokens=0))
    return replace(
        config, model=model, tasks={"retrieval": config.tasks["retrieval"]}, primary_metric="text_to_image_R@1"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds scenes by their English and Chinese captions."""
    folder = tmp_path_factory.mktemp("guarded") / "base"
    config = of_retrieval(steps=80, validate_every=80, checkpoint_every=80, lr=5e-3, batch_size=32)
    start(override(config, ["data.train_pictures=160"]), folder)
    return folder


def write_scenes(folder: Path, training: int, validation: int, seed: int, words: dict[str, str]) -> Path:
    """Scenes as files, with some words of their captions replaced."""
    count = training + validation
    config = ScenesConfig(eval_pictures=count, questions_per_picture=1, languages=("en",))
    scenes = SceneDataset("val", config, seed)
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number in range(count):
            example = scenes.example(number)
            Image.fromarray(example.inputs["image"].load()).save(folder / f"{number:03}.png")
            caption = " ".join(words.get(word, word) for word in example.captions[0].text.split())
            table.writerow([f"{number:03}.png", caption, "train" if number < training else "val"])
    return folder


@pytest.fixture(scope="module")
def old_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old domain as files: 50 scenes that the base was not trained on."""
    return write_scenes(tmp_path_factory.mktemp("old"), 10, 50, 7, {})


@pytest.fixture(scope="module")
def new_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new domain: colours and shapes have each other's names, so that to learn it is to forget the old one."""
    turned = [("red", "green", "blue", "yellow", "purple", "cyan"), ("circle", "square", "triangle")]
    words = {name: names[place - 1] for names in turned for place, name in enumerate(names)}
    return write_scenes(tmp_path_factory.mktemp("new"), 64, 40, 8, words)


@pytest.fixture
def adapting(base: Path, old_files: Path, new_files: Path) -> Callable[..., RunConfig]:
    """`adapting("key=value", steps=6)`: the base goes on with the new domain, far too fast unless told otherwise."""

    def config(*words: str, **train: Any) -> RunConfig:
        settings = {"steps": 6, "validate_every": 2, "checkpoint_every": 2, "lr": 0.3, **train}
        made = replace(of_retrieval(**settings), init_from=str(base), data=FilesConfig(path=str(new_files)))
        return override(made, [f"train.retention.path={old_files}", *words])

    return config


Adapting = Callable[..., RunConfig]


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def forgetting_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text())["forgetting"])


def test_the_retention_check_is_what_evaluation_says_and_warns_at_once(
    base: Path, old_files: Path, adapting: Adapting, tmp_path: Path
) -> None:
    """Guards against a check with numbers of its own, one that is made too late, and a curve that gets lost."""
    finished, said = start(adapting(), tmp_path / "run")
    assert finished is not None
    pipeline = Pipeline.load(base, pick_device())
    pipeline.config = replace(pipeline.config, data=FilesConfig(path=str(old_files)))
    examples, _ = open_prepared(pipeline, "val", Console(file=io.StringIO()))
    expected = evaluate(pipeline, examples).scores[METRIC]
    assert expected.low > 10 / 50, "the base knows something that can be lost"
    watched = [
        (row["step"], row[f"retention/{METRIC}"]) for row in rows_of(tmp_path / "run") if f"retention/{METRIC}" in row
    ]
    assert [step for step, _ in watched] == [0, 2, 4, 6]
    assert watched[0][1] == pytest.approx(expected.value)
    told = forgetting_of(tmp_path / "run")["retention"]
    assert told["before"] == pytest.approx(expected.as_dict())
    assert watched[1][1] < 0.95 * expected.value, "three tenths is far too fast"
    line = next(line for line in said.splitlines() if line.startswith("step 2:"))
    assert f"{expected.value:.3f}" in line and f"{watched[1][1]:.3f}" in line and "95 % required" in line
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Accuracy on the old domain" in page and "The old domain, while the new one is learned" in page
    after = Pipeline.load(tmp_path / "run", pick_device())
    after.config = replace(after.config, data=FilesConfig(path=str(old_files)))
    assert told["after"] == pytest.approx(evaluate(after, examples).scores[METRIC].as_dict())


def test_a_run_that_forgets_stops_with_the_weights_from_before(base: Path, adapting: Adapting, tmp_path: Path) -> None:
    """Guards against a stop that keeps what was ruined, and a resume that trains on after it."""
    config = adapting("train.retention.on_drop=stop", steps=48, validate_every=12, lr=5e-3)
    _, said = start(config, tmp_path / "run")
    first, last = (row for row in rows_of(tmp_path / "run") if "loss" not in row)
    assert last["step"] == 12 and "the retention check ended training at step 12, with the weights of step 0" in said
    assert last["val/text_to_image_R@1"] > first["val/text_to_image_R@1"], "validation alone would keep what forgot"
    kept, before = weights(tmp_path / "run"), weights(base)
    assert set(kept) == set(before) and all(torch.equal(kept[name], before[name]) for name in kept)
    told = forgetting_of(tmp_path / "run")["retention"]
    assert told["kept"] == 1 and told["before"] == told["after"] and "step 12" in told["stopped"]
    written = traces(tmp_path / "run")
    (tmp_path / "run" / MANIFEST).unlink()
    start(config, tmp_path / "run", resume=True)
    assert traces(tmp_path / "run") == written


def test_a_gentle_run_is_left_alone(adapting: Adapting, tmp_path: Path) -> None:
    """Guards against a check that stops what it should only measure, or that changes a step of training."""
    config = adapting("train.retention.on_drop=stop", "train.retention.examples=20", lr=1e-6)
    _, said = start(config, tmp_path / "watched")
    assert forgetting_of(tmp_path / "watched")["retention"]["before"]["n"] == 20
    assert "fell from" not in said and max(row["step"] for row in rows_of(tmp_path / "watched")) == 6
    start(override(config, ["train.retention.path=", "train.retention.on_drop=warn"]), tmp_path / "alone")
    losses = [[row["loss"] for row in rows_of(tmp_path / name) if "loss" in row] for name in ("watched", "alone")]
    assert losses[0] == losses[1]


def test_weights_are_interpolated_and_chosen_on_validation(base: Path, adapting: Adapting, tmp_path: Path) -> None:
    """Guards against ends that are swapped, a choice that forgets, and saved weights of another share."""
    config = adapting("train.interpolate=true", steps=24, validate_every=12, lr=5e-3, ema_decay=0.5)
    finished, said = start(config, tmp_path / "run")
    assert finished is not None and "interpolated: " in said
    told = forgetting_of(tmp_path / "run")
    way, retention = told["interpolation"], told["retention"]
    curve = {row["alpha"]: row for row in way["curve"]}
    assert list(curve) == [number / 10 for number in range(11)]
    assert curve[0.0]["old"] == pytest.approx(retention["before"])
    best = max(row["val/text_to_image_R@1"] for row in rows_of(tmp_path / "run") if "val/text_to_image_R@1" in row)
    assert curve[1.0]["text_to_image_R@1"]["value"] == best > curve[0.0]["text_to_image_R@1"]["value"]
    enough = [row for row in curve.values() if row["old"]["value"] >= 0.95 * retention["before"]["value"]]
    assert way["alpha"] in [row["alpha"] for row in enough]
    assert curve[way["alpha"]]["text_to_image_R@1"]["value"] == max(r["text_to_image_R@1"]["value"] for r in enough)
    before, saved = weights(base), weights(tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    after = safetensors.torch.load_file(newest / "best.safetensors")
    for name, value in saved.items():
        if name in after:
            slow = (1 - way["alpha"]) * before[name].double() + way["alpha"] * after[name].double()
            torch.testing.assert_close(value.double(), slow, atol=1e-6, rtol=0)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Weights between before (0) and after training (1)" in page


def test_low_rank_changes_are_interpolated_merged(base: Path, adapting: Adapting, tmp_path: Path) -> None:
    """Guards against factors that are interpolated, and a start that knows nothing of the merged matrices."""
    words = ("train.interpolate=true", "train.retention.max_drop=0.5", "train.adapt=lora", "train.lora_rank=2")
    config = adapting(*words, steps=24, validate_every=12, lr=5e-3)
    start(config, tmp_path / "between")
    way = forgetting_of(tmp_path / "between")["interpolation"]
    start(override(config, ["train.interpolate=false"]), tmp_path / "whole")
    before, after, saved = weights(base), weights(tmp_path / "whole"), weights(tmp_path / "between")
    assert set(saved) == set(before)
    for name, value in saved.items():
        slow = (1 - way["alpha"]) * before[name].double() + way["alpha"] * after[name].double()
        torch.testing.assert_close(value.double(), slow, atol=1e-6, rtol=0)
    tower = [name for name in saved if name.startswith("text_encoder.") and not torch.equal(before[name], after[name])]
    assert way["alpha"] > 0 and tower and all(before[name].ndim == 2 for name in tower)


def test_a_run_with_a_retention_check_goes_on_to_the_same_bits(adapting: Adapting, tmp_path: Path) -> None:
    """Guards against a retention check, a chosen rate, or weights from before that a checkpoint forgets."""
    words = ("train.interpolate=true", "train.lr=0", "train.retention.max_drop=0.5")
    config = adapting(*words, steps=40, validate_every=8, checkpoint_every=3)
    start(config, tmp_path / "whole")
    step = Trainer.step

    def stopping(self: Trainer, batches: Any) -> dict[str, float]:
        if self.progress.step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        with pytest.raises(Interrupted):
            start(config, tmp_path / "parts")
    start(config, tmp_path / "parts", resume=True)
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")
    told = forgetting_of(tmp_path / "whole")
    rate = told["learning_rate"]
    assert len(told["interpolation"]["curve"]) == 11, "something was learned"
    assert rate["why"].startswith(f"{rate['peak']:g}: ") and "pre-trained" in rate["why"]
    assert max(row["lr"] for row in rows_of(tmp_path / "whole") if "lr" in row) == pytest.approx(rate["peak"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.retention.metric=CIDEr"], "train.retention.metric is 'CIDEr'"),
        (["train.retention.split=nothing"], "nothing"),
        (["train.retention.path=/does/not/exist"], "/does/not/exist"),
        (["train.retention.max_drop=1"], "train.retention.max_drop is 1"),
        (["train.retention.examples=1"], "train.retention.examples is 1"),
        (["train.retention.path=", "train.retention.on_drop=stop"], "train.retention.path is not set"),
        (["init_from=", "train.interpolate=true"], "everything that is trained starts anew"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    words: list[str], part: str, adapting: Adapting, tmp_path: Path
) -> None:
    """Guards against hours of training before a check is found to be impossible."""
    with pytest.raises(InputError) as caught:
        start(adapting(*words), tmp_path / "run")
    assert part in str(caught.value)
    assert not (tmp_path / "run" / MANIFEST).exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_rate_far_too_high_for_what_is_known_is_said(base: Path, tmp_path: Path) -> None:
    """Guards against the silence that ruins a model: pre-training's rate and warm-up on pre-trained weights."""
    config = replace(of_retrieval(steps=2, validate_every=2, lr=0.3, warmup_steps=100), init_from=str(base))
    _, said = start(config, tmp_path / "run")
    assert "train.lr is 0.3" in said and "pre-trained numbers" in said and "train.warmup_steps is 100" in said
