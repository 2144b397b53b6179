"""Distillation: the teacher is the moving average or a given run, it is asked as in evaluation, and is not trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import distilling, small_config, start

from chiasm.core.errors import InputError
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import TASKS
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig
from chiasm.train.execution.averaging import AveragedModel
from chiasm.train.execution.replica import Replica
from chiasm.train.trainer import Trainer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_is_the_average_after_every_step(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a teacher of the step before, one that is the student, and weights that it alone keeps."""
    inner, seen = Trainer.step, []

    def watched(self: Trainer, batches: Any) -> dict[str, float]:
        row = inner(self, batches)
        assert isinstance(self.execution, Replica)
        teacher = self.execution.teacher
        assert isinstance(teacher, AveragedModel) and set(teacher.parameters) == set(self.execution.kept("ema")) == set(
            self.names
        )
        named = dict(teacher.model.named_parameters())
        student = dict(self.pipeline.model.named_parameters())
        for name, average in self.execution.kept("ema").items():
            assert torch.equal(named[name], average.to(named[name].dtype)), name
        assert any(not torch.equal(named[name].float(), student[name]) for name in self.names)
        assert not teacher.model.training and not any(p.requires_grad or p.grad is not None for p in named.values())
        expected = {name: value.clone() for name, value in self.pipeline.model.state_dict().items()}
        seen.append(expected)
        return row

    monkeypatch.setattr(Trainer, "step", watched)
    config = distilling(steps=4, precision=precision)
    start(config, tmp_path)
    assert len(seen) == 4


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    named = dict(trainer.pipeline.model.named_parameters())
    return {name: named[name].detach().double() for name in trainer.names}


def test_average_follows_the_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an average that starts from zero, or is taken before the step: e = d e + (1 - d) w, by hand."""
    inner, by_hand = Trainer.step, {}

    def watched(self: Trainer, batches: Any) -> dict[str, float]:
        if not by_hand:
            by_hand.update(weights(self))
        row = inner(self, batches)
        step = self.progress.step
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in weights(self).items():
            by_hand[name] = decay * by_hand[name] + (1 - decay) * value
        for name, value in self.execution.kept("ema").items():
            torch.testing.assert_close(value.double(), by_hand[name], rtol=1e-5, atol=1e-6)
        return row

    monkeypatch.setattr(Trainer, "step", watched)
    start(distilling(steps=3), tmp_path)
    assert by_hand


def losses(folder: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_each_task_that_distils_asks_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a share of soft targets that changes nothing, and a teacher that is kept where nobody asks."""
    built: list[object] = []
    inner = AveragedModel.__init__

    def counted(self: AveragedModel, *arguments: Any) -> None:
        built.append(self)
        inner(self, *arguments)

    monkeypatch.setattr(AveragedModel, "__init__", counted)
    config = distilling(steps=2)
    start(config, tmp_path / "with")
    assert len(built) == 1
    plain = {name: TASKS[name].Config(weight=task.weight) for name, task in config.tasks.items()}
    start(replace(config, tasks=plain), tmp_path / "without")
    assert len(built) == 1, "a run that does not distil needs no second model"
    for name in ("retrieval_loss", "masked_language_modelling_loss"):
        soft, hard = losses(tmp_path / "with", name), losses(tmp_path / "without", name)
        assert soft[0] != pytest.approx(hard[0], rel=1e-4), name
    first = [losses(tmp_path / run, "matching_loss")[0] for run in ("with", "without")]
    assert first[0] == pytest.approx(first[1], rel=1e-6), "matching does not distil"


def taught(by: Path, **train: Any) -> RunConfig:
    """A smaller model that learns questions and contrast from a run, whose tokenizer it takes."""
    config = small_config(**train)
    tasks = {"retrieval": RetrievalConfig(distil=0.5), "vqa": VqaConfig(distil=0.5)}
    model = replace(config.model, dim=16, embedding_dim=8)
    return replace(
        config, tasks=tasks, model=model, init_from=str(by), train=replace(config.train, teacher=str(by), ema_decay=0.0)
    )


def test_a_smaller_model_learns_from_a_given_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a teacher that is the student, one that is trained, and a share that changes nothing."""
    inner, seen = Trainer.step, []

    def watched(self: Trainer, batches: Any) -> dict[str, float]:
        row = inner(self, batches)
        assert isinstance(self.execution, Replica) and self.execution.teacher is not None
        seen.append({name: value.clone() for name, value in self.execution.teacher.model.state_dict().items()})
        return row

    start(small_config(steps=2), tmp_path / "teacher")
    own = Pipeline.load(tmp_path / "teacher", torch.device("cpu")).model.state_dict()
    monkeypatch.setattr(Trainer, "step", watched)
    start(taught(tmp_path / "teacher", steps=3), tmp_path / "student")
    assert len(seen) == 3
    for state in seen:
        assert all(torch.equal(value, own[name]) for name, value in state.items())
    monkeypatch.setattr(Trainer, "step", inner)
    config = taught(tmp_path / "teacher", steps=3)
    plain = {name: replace(task, distil=0.0) for name, task in config.tasks.items()}  # type: ignore[call-arg]
    start(replace(config, tasks=plain, train=replace(config.train, teacher="")), tmp_path / "alone")
    for name in ("retrieval_loss", "vqa_loss"):
        soft, hard = losses(tmp_path / "student", name), losses(tmp_path / "alone", name)
        assert soft[0] != pytest.approx(hard[0], rel=1e-4), name


def test_a_teacher_that_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """Guards against words and answers that teacher and student number differently, and images of another size."""
    config = small_config(steps=1)
    start(config, tmp_path / "teacher")
    without = replace(config, tasks={"retrieval": RetrievalConfig()}, init_from=str(tmp_path / "teacher"))
    start(replace(without, primary_metric=""), tmp_path / "another")
    fitting = taught(tmp_path / "teacher", steps=1)
    image = replace(fitting.model.image, size_px=fitting.model.image.size_px + 8)
    cases = {
        "tokenizer": replace(fitting, init_from="", data=replace(fitting.data, languages=("en",))),
        "image size": replace(fitting, model=replace(fitting.model, image=image)),
        "a task vqa": replace(taught(tmp_path / "another", steps=1), init_from=str(tmp_path / "teacher")),
        "no task learns": replace(fitting, tasks={"vqa": VqaConfig()}),
    }
    for number, (said, config) in enumerate(cases.items()):
        with pytest.raises(InputError, match=said):
            start(config, tmp_path / str(number))
