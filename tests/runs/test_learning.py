"""The loop learns, stops where it must, and leaves alone what is frozen."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small import small_config, start, traces, without_noise

from chiasm.core.config import override
from chiasm.core.errors import InputError, JobError
from chiasm.core.run_folder import MANIFEST, newest_checkpoint
from chiasm.data.generated.scene_dataset import SceneDataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.serve.engine import load
from chiasm.tasks.vqa import VqaConfig
from chiasm.train import trainer as trainer_module
from chiasm.train.config import RunConfig
from chiasm.train.optimizer import learning_rate
from chiasm.train.parts import Step
from chiasm.train.trainer import Trainer


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_thirty_two_scenes_are_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a loop that runs and writes files but does not learn, or that measures other weights."""
    asked = SceneDataset.example
    # The same questions in every epoch: new ones each time could not be learned by heart.
    monkeypatch.setattr(SceneDataset, "example", lambda self, index, epoch=0: asked(self, index, 0))
    small = without_noise(small_config(steps=220, accumulate=1, validate_every=220, checkpoint_every=220, ema_decay=0))
    config = override(small, ["data.train_pictures=32", "train.batch_size=32", "model.dim=64", "train.lr=0.004"])
    config = replace(config, tasks={"vqa": VqaConfig()})
    start(config, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert losses[-1] < 0.1 * losses[0]
    pipeline = load(tmp_path).pipeline
    training = SceneDataset("train", config.data, config.seed)
    scores = evaluate(pipeline, [training.example(number) for number in range(32)]).scores
    assert scores["vqa_accuracy"].value > 0.9 and scores["vqa_accuracy"].n == 96


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against weights of NaN: the step must not be taken, and the message must say where to look."""
    inner = Step._losses

    def broken(self: Step, *arguments: Any) -> dict[str, torch.Tensor]:
        losses = inner(self, *arguments)
        return {**losses, "vqa": losses["vqa"] * float("nan")} if self.counters[-1] == 4 else losses

    with monkeypatch.context() as patch:
        patch.setattr(Step, "_losses", broken)
        with pytest.raises(JobError, match="step 5") as caught:
            start(small_config(), tmp_path)
    assert "not_finite.json" in str(caught.value) and "--resume" in str(caught.value)
    told = json.loads((tmp_path / "not_finite.json").read_text())
    assert told["step"] == 5 and len(told["examples"]) == 16 and told["values"]["loss"] == "nan"
    assert all(example.startswith("scene-train-") for example in told["examples"])
    assert not (tmp_path / MANIFEST).exists()
    newest, _ = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-00000003"
    start(small_config(), tmp_path, resume=True)
    start(small_config(), tmp_path.with_name("whole"))
    assert traces(tmp_path) == traces(tmp_path.with_name("whole"))


def test_patience_ends_a_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Guards against stopping too soon or never, and against keeping the last weights for the best ones."""
    config = small_config(lr=1e-12, patience=2, steps=40, validate_every=2, ema_decay=0)
    start(config, tmp_path)
    found = rows(tmp_path)
    assert found[-1]["step"] == 6, "best at step 2, then two validations that are no better"
    start(small_config(lr=1e-12, steps=2, validate_every=2, ema_decay=0), tmp_path / "short")
    best, last = (
        safetensors.torch.load_file(f / "model.safetensors")
        for f in (tmp_path, max((tmp_path / "checkpoints").iterdir()))
    )
    assert any(not torch.equal(value, last[name]) for name, value in best.items())


def test_time_limit_shortens_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that overruns its limit, or stops in the middle of its cosine instead of at its end."""

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

    inner = Trainer.step

    def slow(self: Trainer, batches: Sequence[Any]) -> dict[str, float]:
        Clock.now += 2.0
        return inner(self, batches)

    monkeypatch.setattr(trainer_module, "time", Clock)
    monkeypatch.setattr(Trainer, "step", slow)
    config = small_config(steps=100, limit_s=60, validate_every=1000, checkpoint_every=1000)
    start(config, tmp_path)
    found = [row for row in rows(tmp_path) if "loss" in row]
    assert found[-1]["step"] == 30, "60 s at 2 s a step"
    assert found[-1]["lr"] == pytest.approx(learning_rate(29, 30, config.train)) and found[-1]["lr"] < 0.05 * 3e-3
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["train"]["steps"] == 30


def test_frozen_parameters_stay_bit_for_bit(tmp_path: Path) -> None:
    """Guards against weight decay, moving averages or precision that touch what train.trainable leaves out."""
    config = small_config(steps=4, trainable=("image_projection.*", "heads.vqa.*"), weight_decay=0.5)
    start(config, tmp_path)
    first, last = (
        safetensors.torch.load_file(tmp_path / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        for step in (0, 4)
    )
    changed = {name for name, value in last.items() if not torch.equal(value, first[name])}
    trained = {name for name in last if name.startswith(("image_projection.", "heads.vqa."))}
    assert changed == trained
    kept = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {name for name, value in kept.items() if not torch.equal(value, first[name])} == trained


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trainable": ("decoder.*",)}, "matches no parameter"),
        ({"batch_size": 15, "accumulate": 2}, "no multiple of train.accumulate"),
        ({"steps": 0}, "train.steps and train.epochs are both 0"),
    ],
)
def test_config_that_cannot_train_is_refused_before_anything_is_written(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    """Guards against a run folder of a run that never was."""
    config: RunConfig = small_config(**change)
    with pytest.raises(InputError, match=expected):
        start(config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_validation_measures_the_moving_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against scores and best weights of the raw weights, in a run whose average is kept."""
    validate, looked = Trainer._validate, []

    def watching(self: Trainer, *arguments: Any) -> None:
        raw = {name: value.detach().clone() for name, value in self.pipeline.model.named_parameters()}
        asked = self.hooks.validate_together

        def scores() -> Any:
            now = dict(self.pipeline.model.named_parameters())
            average = self.execution.kept("ema")
            looked.append(all(torch.equal(now[name], average[name]) for name in average))
            assert any(not torch.equal(raw[name], average[name]) for name in average)
            return asked()

        monkeypatch.setattr(self, "hooks", replace(self.hooks, validate_together=scores))
        validate(self, *arguments)
        monkeypatch.setattr(self, "hooks", replace(self.hooks, validate_together=asked))
        assert all(torch.equal(raw[name], value) for name, value in self.pipeline.model.named_parameters())

    monkeypatch.setattr(Trainer, "_validate", watching)
    start(small_config(steps=4, validate_every=2), tmp_path)
    assert looked == [True, True]
