"""Training and going on with it on a device that is not the CPU, on a machine without one: see `second_device`."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pytest
import torch
from second_device import NAME, forget_tensors, second_device

from chiasm.core.config import override
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.models.config import ModelConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import TaskConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.texts import CaptionConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, TrainConfig, weighed_tasks
from chiasm.train.execution.replica import Replica
from chiasm.train.loader import Loader
from chiasm.train.trainer import Hooks, Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fresh() -> Iterator[Executor]:
    """A process in which no backward pass was made before the device was there: torch counts devices only once."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def small(tasks: dict[str, TaskConfig], model: ModelConfig, **train: object) -> RunConfig:
    """Four steps of four pictures in two parts, without dropout, which other devices draw otherwise."""
    demo = find_recipe("demo", tiny=True)
    model = replace(
        model,
        dim=16,
        embedding_dim=8,
        dropout=0.0,
        image=replace(model.image, channels=(4, 8, 8), size_px=24),
        text=replace(model.text, summary_tokens=0),
    )
    settings = {"batch_size": 4, "accumulate": 2, "steps": 4, "ema_decay": 0.9, "lr": 1e-3, "precision": "fp32"}
    return replace(demo, model=model, tasks=tasks, train=TrainConfig(**{**settings, **train}))


def configs() -> dict[str, RunConfig]:
    """Every task, and every way in which losses are weighed, in as few runs as possible."""
    model = find_recipe("demo", tiny=True).model
    merged = replace(model, fusion="merged_attention")
    captions = CaptioningConfig(captions_per_picture=2)
    return {
        "contrast, captions, answers": small(
            {
                "retrieval": RetrievalConfig(captions_per_picture=2, hard_negatives=0.7),
                "captioning": captions,
                "vqa": VqaConfig(),
            },
            model,
            weighting="uncertainty",
        ),
        "distilled": small(
            {
                "retrieval": RetrievalConfig(distil=0.4),
                "masked_language_modelling": MaskingConfig(distil=0.4),
                "matching": MatchingConfig(word_patch_weight=0.1),
            },
            merged,
            weighting="pcgrad",
        ),
        "in any order": small(
            {
                "permutation_language_modelling": CaptionConfig(),
                "vqa": VqaConfig(objective="generate"),
            },
            override(merged, ["text.kind=two_stream"]),
            conflict_every=1,
        ),
        "added": small(
            {"retrieval": RetrievalConfig(objective="additive"), "vqa": VqaConfig()},
            replace(model, fusion="shared_sum"),
            precision="bf16",
        ),
        "yes or no": small({"retrieval": RetrievalConfig(objective="sigmoid", captions_per_picture=2)}, model),
    }


def trainer(device: torch.device, folder: Path, config: RunConfig, checkpoint: Path | None = None) -> Trainer:
    """A trainer of a new run, or of one that goes on."""
    data = open_dataset(config.data, "train", 0)
    torch.manual_seed(0)
    pipeline = Pipeline.build(
        config, [data.example(number) for number in range(16)], device, learned_weights=weighed_tasks(config)
    )
    loader = Loader(data, pipeline.tasks, pipeline.codec, config)
    made = Trainer(pipeline, loader, folder, Hooks(dict, dict, dict), "loss")
    made.start(checkpoint, config.train.precision, "")
    return made


def steps(one: Trainer, stop: int) -> list[dict[str, float]]:
    """The rows of steps up to `stop`."""
    rows = []
    while one.progress.step < stop:
        rows.append(one.step(one.loader.batches(one.progress.step)))
        one.progress.step += 1
    return rows


def scores(one: Trainer) -> dict[str, float]:
    """What evaluation says of a few pictures, through every task's `predict`."""
    data = open_dataset(one.run.data, "val", 0)
    one.pipeline.model.eval()
    found = evaluate(one.pipeline, [data.example(number) for number in range(4)]).scores
    return {name: score.value for name, score in found.items()}


def devices(one: Trainer) -> set[str]:
    """Where the tensors of a run lie."""
    assert isinstance(one.execution, Replica)
    moments = [value for moment in one.execution.optimizer.state.values() for value in moment.values()]
    kept = [value for name in ("ema", "best", "before") for value in one.execution.kept(name).values()]
    return {value.device.type for value in (*moments, *kept)}


@pytest.mark.parametrize("name", sorted(configs()))
def test_a_run_trains_answers_and_goes_on_where_its_model_lies(name: str, tmp_path: Path, fresh: Executor) -> None:
    """Guards against whatever is made, or restored, on the CPU while the model lies elsewhere."""
    fresh.submit(train_answer_and_go_on, name, tmp_path).result()


def train_answer_and_go_on(name: str, tmp_path: Path) -> None:
    """Two steps, a checkpoint and two more on the second device, beside four on the CPU."""
    device, config = second_device(), configs()[name]
    on_cpu, first = trainer(CPU, tmp_path / "cpu", config), trainer(device, tmp_path / "run", config)
    assert scores(first) == pytest.approx(scores(on_cpu), abs=1e-4)
    whole = steps(on_cpu, 4)
    rows = steps(first, 2)
    first.execution.keep("best")
    # Tensors that share memory are kept once; those of the second device have no memory of their own to tell it by.
    with mock.patch.object(Pipeline, "saved_names", lambda pipeline: list(pipeline.model.state_dict())):
        first.save()
    second = trainer(device, tmp_path / "run", config, tmp_path / "run" / "checkpoints" / "step-00000002")
    assert devices(second) == {NAME}
    rows += steps(second, 4)
    assert devices(second) == {NAME}
    tolerance = 0.1 if config.train.precision == "bf16" else 1e-3
    for row, expected in zip(rows, whole, strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=1e-6), (row, expected)
    forget_tensors()


def test_the_device_refuses_what_a_gpu_refuses(fresh: Executor) -> None:
    """The null control: a second device that computes with tensors of the CPU would prove nothing."""
    fresh.submit(mix_devices).result()


def mix_devices() -> None:
    """What a GPU refuses, and what it takes."""
    there, here = torch.ones(2, device=second_device()), torch.ones(2)
    for mixed in (lambda: there + here, lambda: torch.cat([there, here]), lambda: torch.where(there > 0, here, 0)):
        with pytest.raises(RuntimeError, match=r"expected all tensors on|on the same device"):
            mixed()
    assert (there + torch.tensor(1.0)).tolist() == [2, 2] and there[torch.tensor([1])].tolist() == [1]
    weight = torch.nn.Parameter(there)
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()
    with pytest.raises(RuntimeError, match="expected all tensors on"):
        optimizer.step()
