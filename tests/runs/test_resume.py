"""A run that was stopped, killed or torn goes on as if nothing had happened: bit for bit."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import distilling, small_config, start, traces

from chiasm.core.errors import InputError
from chiasm.core.files import folder_lock
from chiasm.core.run_folder import MANIFEST, newest_checkpoint
from chiasm.train import parts
from chiasm.train.config import RunConfig
from chiasm.train.execution import replica
from chiasm.train.trainer import Interrupted, Trainer

HERE = Path(__file__).resolve().parent


class Died(Exception):
    """Stands for a process that ends without a word."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    start(small_config(), folder)
    return traces(folder)


def stop_at(step: int, patch: pytest.MonkeyPatch, stop: Callable[[], None]) -> None:
    """Call `stop` within the optimiser step that follows `step` finished ones."""
    inner = Trainer.step

    def outer(self: Trainer, batches: Any) -> dict[str, float]:
        row = inner(self, batches)
        if self.progress.step + 1 == step:
            stop()
        return row

    patch.setattr(Trainer, "step", outer)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def die() -> None:
    raise Died


def interrupted_and_resumed(folder: Path, step: int, config: RunConfig | None = None) -> dict[str, bytes]:
    config = config or small_config()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(step, patch, interrupt)
        with pytest.raises(Interrupted, match=f"saved at step {step} of {config.train.steps}"):
            start(config, folder)
    start(config, folder, resume=True)
    return traces(folder)


@pytest.mark.parametrize("step", [1, 5, 10])
def test_interrupted_run_ends_as_the_whole_one(step: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against state that no checkpoint keeps: moments, average, best weights, draws, place in the epoch."""
    assert interrupted_and_resumed(tmp_path, step) == whole


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "pcgrad"])
def test_teacher_draws_and_weights_of_losses_are_resumed(weighting: str, tmp_path: Path) -> None:
    """Guards against a teacher that starts anew, and draws (hidden words, wrong pairs, PCGrad's order) that differ."""
    config = distilling(steps=7, validate_every=7, weighting=weighting, conflict_every=2)
    start(config, tmp_path / "whole")
    expected = traces(tmp_path / "whole")
    assert interrupted_and_resumed(tmp_path / "stopped", 4, config) == expected


def test_contrast_over_parts_is_resumed(tmp_path: Path) -> None:
    """Guards against draws of the two passes that depend on the steps since the start."""
    config = small_config(steps=7, validate_every=7, exact_contrast=True)
    start(config, tmp_path / "whole")
    assert interrupted_and_resumed(tmp_path / "stopped", 4, config) == traces(tmp_path / "whole")


def test_dead_run_ends_as_the_whole_one(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against rows written twice: after a death, steps since the checkpoint are done and logged again."""
    for step in (2, 5, 8):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch, die)
            with pytest.raises(Died):
                start(small_config(), tmp_path, resume=True)
    start(small_config(), tmp_path, resume=True)
    assert traces(tmp_path) == whole


def forget_moments(patch: pytest.MonkeyPatch) -> None:
    inner = replica.load_checkpoint

    def outer(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        kept = inner(folder, model, optimizer)
        for moments in optimizer.state.values():
            moments["exp_avg"].zero_()
        return kept

    patch.setattr(replica, "load_checkpoint", outer)


def forget_average(patch: pytest.MonkeyPatch) -> None:
    inner = replica.load_checkpoint

    def outer(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        kept = inner(folder, model, optimizer)
        named = dict(model.named_parameters())
        return {**kept, "ema": {name: named[name].detach().clone() for name in kept["ema"]}}

    patch.setattr(replica, "load_checkpoint", outer)


def draw_globally(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts, "seed_step", lambda *counters: None)


@pytest.mark.long
@pytest.mark.parametrize("forget", [forget_moments, forget_average, draw_globally])
def test_comparison_can_fail(
    forget: Callable[[pytest.MonkeyPatch], None],
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Null control: with one piece of state forgotten the resumed run must differ, or the tests above prove nothing."""
    forget(monkeypatch)
    stopped = interrupted_and_resumed(tmp_path / "stopped", 5)
    if forget is draw_globally:  # the run that nothing stops draws otherwise too
        start(small_config(), tmp_path / "whole")
        whole = traces(tmp_path / "whole")
    assert stopped["last ema"] != whole["last ema"]


def test_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    """Guards against a run that ended by patience, died while it was measured, and trains on when it is resumed."""
    config = small_config(lr=1e-9, patience=1, steps=24, validate_every=2)
    start(config, tmp_path)
    first, rows = traces(tmp_path), (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] < 24
    (tmp_path / MANIFEST).unlink()
    start(config, tmp_path, resume=True)
    assert traces(tmp_path) == first


def test_torn_newest_checkpoint_is_skipped_and_named(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against trusting a checkpoint whose writing was cut off."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(7, patch, interrupt)
        with pytest.raises(Interrupted):
            start(small_config(), tmp_path)
    newest, problems = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step-00000007" and not problems
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    _, said = start(small_config(), tmp_path, resume=True)
    assert "skipped a checkpoint" in said and "step-00000007" in said and "model.safetensors" in said
    assert "going on from step-00000006" in said
    assert traces(tmp_path) == whole


def test_resume_with_another_config_is_refused(tmp_path: Path) -> None:
    """Guards against a run of two halves with different settings, whose config.json is a lie."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1, patch, interrupt)
        with pytest.raises(Interrupted):
            start(small_config(), tmp_path)
    with pytest.raises(InputError) as caught:
        start(small_config(lr=1e-3), tmp_path, resume=True)
    assert "train.lr is 0.001" in caught.value.given and "0.003" in caught.value.given
    assert "train.lr=0.003" in caught.value.do
    model = replace(small_config().model, image=replace(small_config().model.image, channels=(8, 16)))
    with pytest.raises(InputError, match=r"model\.image\.channels") as caught:
        start(replace(small_config(), model=model), tmp_path, resume=True)
    assert "--set model.image.channels=8,16,16" in caught.value.do


def test_second_run_into_a_folder_is_refused(tmp_path: Path) -> None:
    """Guards against overwriting a finished run, and against two processes interleaving in one folder."""
    start(small_config(steps=1), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    with pytest.raises(InputError, match="already holds a run") as caught:
        start(small_config(steps=1), tmp_path)
    assert "--resume" in caught.value.do
    with (
        folder_lock(tmp_path / "other"),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
    ):
        start(small_config(steps=1), tmp_path / "other")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == [".lock"]


def test_resume_of_an_empty_folder_starts(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against a job script that needs to know whether its run was ever started."""
    start(small_config(), tmp_path / "new", resume=True)
    assert traces(tmp_path / "new") == whole


def test_resume_of_a_finished_run_changes_nothing(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against a finished run that is trained further, or measured on other weights, by one more --resume."""
    start(small_config(), tmp_path)
    start(small_config(), tmp_path, resume=True)
    assert traces(tmp_path) == whole


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    """Guards against lost work, a wrong exit status, and a printed command that a shell would read differently."""
    out = tmp_path / "my run"
    words = ["train", "demo", "--tiny", "--out", str(out), "--set", "train.steps=5000", "--set", "train.batch_size=8"]
    command = [sys.executable, "-m", "chiasm", *words, "--set", "train.validate_every=4000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (out / "checkpoints" / "step-00000000" / MANIFEST).exists(), process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "interrupted: saved at step" in said and "Traceback" not in said
    newest, problems = newest_checkpoint(out / "checkpoints")
    assert newest is not None and not problems
    assert f"saved at step {int(newest.name.removeprefix('step-'))} of 5000" in said
    again = shlex.split(said.split("to go on: ")[1].splitlines()[0])
    assert again == ["chiasm", *command[3:], "--resume"]
    assert not (out / MANIFEST).exists()


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]", limit_s: float = 90) -> None:
    until = time.monotonic() + limit_s
    while not happened():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.02)


def test_kill_at_any_moment_loses_nothing(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Guards against a checkpoint that is half old and half new, and one that a resumed run cannot read."""
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_runs.py"), str(folder), "4"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] == 4 and report["crashed"] == 2, "not every process was ended in its work"
    assert not list(folder.rglob("*.partial"))
    expected = tmp_path / "expected"
    shutil.copytree(report["whole"], expected)
    assert traces(folder) == traces(expected)
