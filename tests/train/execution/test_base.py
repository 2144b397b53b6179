"""Every execution plan keeps the contract of `execution/base.py`, on one small model."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.core.distributed import process_group
from chiasm.core.types import IMAGE
from chiasm.data.opening import open_dataset
from chiasm.pipeline.batching import to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.execution import make_execution
from chiasm.train.execution.averaging import AveragedModel
from chiasm.train.execution.base import Execution, Part
from chiasm.train.execution.processes import Processes
from chiasm.train.execution.sharded import Sharded
from chiasm.train.execution.single import SingleProcess
from chiasm.train.loader import Loader
from chiasm.train.state import Progress, save_checkpoint
from processes import together

NAMES = ["heads.vqa.2.weight", "heads.vqa.2.bias"]
IMAGES = 6


def config() -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    model = replace(demo.model, dim=16, embedding_dim=8, dropout=0.0, image=image)
    tasks = {"vqa": demo.tasks["vqa"]}
    train = TrainConfig(batch_size=IMAGES, steps=4, lr=1e-2, ema_decay=0.5, clip_norm=1e6, weight_decay=0.0)
    return replace(demo, model=model, tasks=tasks, train=train)


def planned(shards: bool = False) -> tuple[Execution, Pipeline, Callable[[int], Part]]:
    """A plan that is not prepared yet, its pipeline, and the one part of each step."""
    run = config()
    run = replace(run, train=replace(run.train, shards=shards))
    scenes = open_dataset(run.data, "train", 0)
    torch.manual_seed(0)
    pipeline = Pipeline.build(run, [scenes.example(number) for number in range(16)], torch.device("cpu"))
    execution, loader = make_execution(pipeline, NAMES), Loader(scenes, pipeline.tasks, pipeline.codec, run)

    def part(step: int) -> Part:
        (batch,) = loader.batches(step)
        pictures = to_model_range(batch.inputs[IMAGE], execution.dtype)

        def losses(model: Any, average: AveragedModel | None) -> dict[str, torch.Tensor]:
            assert average is None and model.training
            encoded = {IMAGE: model.encode_image(pictures)}
            return {"vqa": pipeline.tasks["vqa"].loss(model, encoded, batch, None)["loss"]}

        return losses

    return execution, pipeline, part


def steps(execution: Execution, part: Callable[[int], Part], start: int, stop: int) -> list[float]:
    """Steps `start` to `stop`: gradient norm and loss of each, in turn."""
    rows: list[float] = []
    for number in range(start, stop):
        norm, row = execution.backward([part(number)], number)
        rows += [norm, row["loss"]]
        execution.step(number, lambda depth: 1e-2)
    return rows


def saved(execution: Execution, pipeline: Pipeline, folder: Path, step: int) -> Path | None:
    tensors = execution.state(pipeline.saved_names())
    assert bool(tensors) == execution.is_rank0
    return save_checkpoint(folder, Progress(step=step), tensors, {}, 2) if tensors else None


def test_only_the_named_parameters_move_and_the_average_follows() -> None:
    """Guards against a parameter that is trained unasked, an average of the wrong weights, and a lost exchange."""
    execution, pipeline, part = planned()
    assert isinstance(execution, SingleProcess)
    execution.prepare(torch.float32, None)
    before = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    execution.keep("before", NAMES[:1])
    by_hand = {name: before[name].double() for name in NAMES}
    for number in range(3):
        steps(execution, part, number, number + 1)
        decay = min(0.5, (1 + number) / (10 + number))
        now = pipeline.model.state_dict()
        by_hand = {name: decay * value + (1 - decay) * now[name].double() for name, value in by_hand.items()}
    after = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    assert {name for name in after if not torch.equal(after[name], before[name])} <= set(NAMES)
    assert not torch.equal(after[NAMES[0]], before[NAMES[0]])
    with execution.averaged():
        for name, value in by_hand.items():
            torch.testing.assert_close(pipeline.model.state_dict()[name].double(), value, rtol=1e-5, atol=1e-7)
    assert all(torch.equal(value, after[name]) for name, value in pipeline.model.state_dict().items())
    assert set(execution.kept("before")) == {NAMES[0]} and execution.kept("best") == {}
    execution.restore("best")
    assert torch.equal(pipeline.model.state_dict()[NAMES[0]], after[NAMES[0]])
    execution.restore("before")
    assert torch.equal(pipeline.model.state_dict()[NAMES[0]], before[NAMES[0]])


def test_a_step_in_two_equal_parts_is_the_step_of_one() -> None:
    """Guards against parts that are summed in place of averaged, and losses that are."""
    execution, _, part = planned()
    assert isinstance(execution, SingleProcess)
    execution.prepare(torch.float32, None)
    norm, row = execution.backward([part(0)], 0)
    gradient = next(p.grad.clone() for p in execution.model.parameters() if p.grad is not None)
    execution.optimizer.zero_grad()
    twice, twice_row = execution.backward([part(0), part(0)], 0)
    assert twice == pytest.approx(norm, rel=1e-5) and twice_row == pytest.approx(row, rel=1e-6)
    again = next(p.grad for p in execution.model.parameters() if p.grad is not None)
    torch.testing.assert_close(again, gradient)
    assert set(row) == {"vqa_loss", "loss"}


def one_of_two(process: int, port: int, folder: str, shards: bool) -> None:
    """Two steps in two processes, a checkpoint, and two more."""
    os.environ.update(RANK=str(process), LOCAL_RANK=str(process), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with process_group(60.0):
        execution, pipeline, part = planned(shards)
        assert type(execution) is (Sharded if shards else Processes) and execution.is_rank0 == (process == 0)
        assert execution.mean([float(process), 1.0]) == [0.5, 1.0]
        assert execution.broadcast([float(process + 7)]) == [7.0]
        execution.prepare(torch.float32, None)
        rows = steps(execution, part, 0, 2)
        saved(execution, pipeline, Path(folder), 2)
        rows += steps(execution, part, 2, 4)
        with execution.averaged():
            average = pipeline.model.state_dict()[NAMES[0]].clone()
        execution.keep("best", NAMES[1:])
        execution.restore("")
        execution.wait()
        if process == 0:
            assert set(execution.kept("best")) == set(NAMES[1:])
            torch.save((rows, pipeline.model.state_dict()[NAMES[0]], average), Path(folder) / "two.pt")


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(tmp_path: Path, shards: bool) -> None:
    """Guards against state that only the same number of processes can read, and gradients of half the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together(one_of_two, (port, str(tmp_path), shards), 2)
    rows, weight, average = torch.load(tmp_path / "two.pt")
    execution, pipeline, part = planned()
    execution.prepare(torch.float32, None)
    assert steps(execution, part, 0, 2) == pytest.approx(rows[:4], rel=1e-4)
    execution, pipeline, part = planned()
    execution.prepare(torch.float32, tmp_path / "step-00000002")
    assert set(execution.kept("ema")) == set(NAMES)
    assert steps(execution, part, 2, 4) == pytest.approx(rows[4:], rel=1e-4)
    torch.testing.assert_close(pipeline.model.state_dict()[NAMES[0]], weight, rtol=1e-4, atol=1e-5)
    with execution.averaged():
        torch.testing.assert_close(pipeline.model.state_dict()[NAMES[0]], average, rtol=1e-4, atol=1e-5)
