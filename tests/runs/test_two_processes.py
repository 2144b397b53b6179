"""What torchrun starts: several processes, one run, one folder, and the weights of a run in one process."""

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small import save_pictures, small_config, start, weights_that_count, without_noise

import processes
from chiasm.core.distributed import process_group, sum_over_processes
from chiasm.core.run_folder import MANIFEST, verify_folder
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig

WORLD = 2
LONGEST_S = 240
"""A run takes some 10 s; one that hangs shall not take the 10 minutes of `train.process_timeout_s`."""


def contrast() -> RunConfig:
    """Three steps of contrast, whose negatives stand on the other process."""
    config = without_noise(small_config(steps=3, accumulate=1, lr=3e-4, validate_every=2, checkpoint_every=2))
    return replace(config, primary_metric="", tasks={"retrieval": config.tasks["retrieval"]})


def sigmoid_against_questions() -> RunConfig:
    """The sigmoid contrast beside questions, with conflicts taken out of the gradients of the whole batch."""
    config = contrast()
    tasks = {"retrieval": RetrievalConfig(objective="sigmoid"), "vqa": VqaConfig()}
    return replace(config, tasks=tasks, train=replace(config.train, weighting="pcgrad"))


def ragged() -> RunConfig:
    """Five tasks, two of which draw, on none to three captions a picture, in parts of one or two pictures."""
    config = without_noise(small_config(steps=3, accumulate=2, batch_size=6, lr=3e-4, validate_every=3))
    text = replace(config.model.text, summary_tokens=0)
    tasks = {
        "retrieval": RetrievalConfig(captions_per_picture=3),
        "matching": MatchingConfig(captions_per_picture=3),
        "masked_language_modelling": MaskingConfig(captions_per_picture=2),
        "captioning": CaptioningConfig(captions_per_picture=3),
        "vqa": VqaConfig(),
    }
    return replace(
        config,
        primary_metric="text_to_image_R@1",
        model=replace(config.model, text=text),
        data=FilesConfig(path="ragged", languages=("en", "zh")),
        tasks=tasks,
    )


def write_ragged(folder: Path) -> None:
    """Twelve pictures of which a step of six holds at least two without captions."""
    scenes = open_dataset(small_config().data, "train", 0)
    paths = save_pictures(scenes, folder, 16)
    rows = []
    for number, path in enumerate(paths):
        row: dict[str, object] = {"image": path.name, "split": "train" if number < 12 else "val"}
        example = scenes.example(number)
        if number % 2 or number >= 12:
            row["captions"] = [f"{example.captions[0].text} {more}" for more in ("a", "b", "c")[: 1 + number % 3]]
        if number % 4 != 1:
            row["questions"] = [{"question": q.text, "answers": list(q.answers)} for q in example.questions[:2]]
        rows.append(row)
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))


def in_shards(config: RunConfig) -> RunConfig:
    return replace(config, train=replace(config.train, shards=True))


CONFIGS = {
    "contrast": contrast,
    "contrast_in_shards": lambda: in_shards(contrast()),
    "sigmoid": sigmoid_against_questions,
    "ragged": ragged,
    "ragged_in_shards": lambda: in_shards(ragged()),
}


def one_process(process: int, port: int, folder: str, name: str, resume: bool) -> None:
    """What torchrun does for a process, and the run."""
    os.environ.update(RANK=str(process), LOCAL_RANK=str(process), WORLD_SIZE=str(WORLD))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    finished, said = start(CONFIGS[name](), Path(folder), resume)
    assert (finished is None) == (process != 0)
    assert ("run folder:" in said) == (process == 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def together(folder: Path, name: str = "contrast", resume: bool = False) -> None:
    """Both processes to their end; those that wait for each other are ended, and the test is red."""
    started = processes.together(one_process, (free_port(), str(folder), name, resume), WORLD, is_awaited=False)
    assert started is not None
    end = time.monotonic() + LONGEST_S
    while not started.join(timeout=1):
        if time.monotonic() > end:
            for process in started.processes:
                process.kill()
            pytest.fail(f"the processes were not done after {LONGEST_S} s")


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").glob("step-*"))
    assert newest.name == "step-00000003"
    return weights_that_count(newest)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["contrast", "contrast_in_shards"])
def test_two_processes_train_the_weights_of_one(tmp_path: Path, name: str) -> None:
    """Guards against gradients of half the batch, two writers in one folder, and a resume that only one joins."""
    start(contrast(), tmp_path / "one")
    together(tmp_path / "two", name)
    torch.testing.assert_close(last_weights(tmp_path / "two"), last_weights(tmp_path / "one"), rtol=1e-5, atol=1e-5)
    verify_folder(tmp_path / "two", "run")
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one] == [1, 2, 2, 3, 3]
    # The norm too, because Adam hides a gradient that is wrong by a factor.
    for key in ("loss", "grad_norm"):
        values = [[row[key] for row in kept if key in row] for kept in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    before = last_weights(tmp_path / "two")
    (tmp_path / "two" / MANIFEST).unlink()
    (tmp_path / "two" / "checkpoints" / "step-00000003" / MANIFEST).unlink()
    together(tmp_path / "two", name, resume=True)
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


@pytest.mark.parametrize("name", ["ragged", pytest.param("ragged_in_shards", marks=pytest.mark.long)])
def test_two_processes_share_ragged_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Guards against a wait for a process that has no caption, parts of unequal shape, and local means and draws."""
    write_ragged(tmp_path / "ragged")
    monkeypatch.chdir(tmp_path)
    start(ragged(), tmp_path / "one")
    together(tmp_path / "two", name)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for key in ("loss", "grad_norm", *(f"{task}_loss" for task in ragged().tasks)):
        values = [[row[key] for row in kept if key in row] for kept in (one, two)]
        assert len(values[0]) == 3 and values[1] == pytest.approx(values[0], rel=1e-3), key


def one_that_waits(process: int, port: int, place: str) -> None:
    """The first process stays away while the other waits for it; what that one is told goes to a file."""
    os.environ.update(RANK=str(process), LOCAL_RANK=str(process), WORLD_SIZE=str(WORLD))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with process_group(1.0):
        if process == 0:
            time.sleep(6)
            return
        began = time.monotonic()
        try:
            sum_over_processes([1.0])
        except RuntimeError as error:
            Path(place).write_text(f"{time.monotonic() - began} {error}")
            raise


def test_a_process_that_waits_in_vain_gives_up(tmp_path: Path) -> None:
    """Guards against a wait of hours, and a traceback where the other processes are the reason."""
    with pytest.raises(
        mp.ProcessRaisedException, match=r"JobError: process 1 of 2 waited for the others(.|\n)*raise train"
    ):
        processes.together(one_that_waits, (free_port(), str(tmp_path / "said")), WORLD)
    assert 0.5 < float((tmp_path / "said").read_text().split()[0]) < 5
