"""What torchrun starts: several processes, one run, one folder, and the weights of a run in one process."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small import small_config, start, weights_that_count, without_noise

from chiasm.core.run_config import RunConfig, TaskConfig
from chiasm.core.run_folder import MANIFEST, verify_folder

WORLD = 2


def contrast() -> RunConfig:
    """Three steps of contrast, whose negatives stand on the other process."""
    config = without_noise(small_config(steps=3, accumulate=1, lr=3e-4, validate_every=2, checkpoint_every=2))
    return replace(config, primary_metric="", tasks={"retrieval": config.tasks["retrieval"]})


def sigmoid_against_questions() -> RunConfig:
    """The sigmoid contrast beside questions, with conflicts taken out of the gradients of the whole batch."""
    config = contrast()
    tasks = {"retrieval": TaskConfig(objective="sigmoid"), "vqa": TaskConfig()}
    return replace(config, tasks=tasks, train=replace(config.train, weighting="pcgrad"))


CONFIGS = {"contrast": contrast, "sigmoid": sigmoid_against_questions}


def one_process(process: int, port: int, folder: str, name: str, resume: bool) -> None:
    """What torchrun does for a process, and the run."""
    os.environ.update(RANK=str(process), LOCAL_RANK=str(process), WORLD_SIZE=str(WORLD))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    finished, said = start(CONFIGS[name](), Path(folder), resume)
    assert (finished is None) == (process != 0)
    assert ("run folder:" in said) == (process == 0)


def together(folder: Path, name: str = "contrast", resume: bool = False) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(one_process, args=(port, str(folder), name, resume), nprocs=WORLD)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").glob("step-*"))
    assert newest.name == "step-00000003"
    return weights_that_count(newest)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_the_weights_of_one(tmp_path: Path) -> None:
    """Guards against gradients of half the batch, two writers in one folder, and a resume that only one joins."""
    start(contrast(), tmp_path / "one")
    together(tmp_path / "two")
    torch.testing.assert_close(last_weights(tmp_path / "two"), last_weights(tmp_path / "one"), rtol=1e-5, atol=1e-5)
    verify_folder(tmp_path / "two", "run")
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [1, 2, 2, 3, 3]
    # The norm too, because Adam hides a gradient that is wrong by a factor.
    for name in ("loss", "grad_norm"):
        values = [[row[name] for row in kept if name in row] for kept in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    before = last_weights(tmp_path / "two")
    (tmp_path / "two" / MANIFEST).unlink()
    (tmp_path / "two" / "checkpoints" / "step-00000003" / MANIFEST).unlink()
    together(tmp_path / "two", resume=True)
    assert all(torch.equal(value, before[name]) for name, value in last_weights(tmp_path / "two").items())


def test_two_processes_agree_on_conflicts(tmp_path: Path) -> None:
    """Guards against pairs of the sigmoid that are counted once a process, and conflicts of half the batch."""
    start(sigmoid_against_questions(), tmp_path / "one")
    together(tmp_path / "two", "sigmoid")
    torch.testing.assert_close(last_weights(tmp_path / "two"), last_weights(tmp_path / "one"), rtol=1e-5, atol=2e-5)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for name in ("loss", "grad_norm", "cosine/retrieval~vqa"):
        values = [[row[name] for row in kept if name in row] for kept in (one, two)]
        assert len(values[0]) == 3 and values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-5), name
