"""The predicted memory of a step against counts by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.core.types import Batch
from chiasm.data.dataset import Dataset
from chiasm.data.opening import open_dataset
from chiasm.objectives.similarity import PIECE_PAIRS
from chiasm.pipeline.batching import make_batch
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import TrainConfig
from chiasm.train.loader import Loader
from chiasm.train.memory import BACKWARD, COPIES, STEPS_HELD, StepMemory, predict_memory
from chiasm.train.parts import Step
from chiasm.train.trainer import Hooks, Trainer


def made(batch_size: int, parts: int) -> tuple[Trainer, Dataset]:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    model = replace(demo.model, dim=16, embedding_dim=8, dropout=0.0, image=image)
    train = TrainConfig(batch_size=batch_size, accumulate=parts, steps=1, precision="fp32")
    run = replace(
        demo,
        data=replace(demo.data, train_pictures=batch_size),
        model=model,
        tasks={"retrieval": RetrievalConfig(captions_per_picture=2)},
        train=train,
    )
    dataset = open_dataset(run.data, "train", 0)
    pipeline = Pipeline.build(run, [dataset.example(row) for row in range(8)], torch.device("cpu"))
    loader = Loader(dataset, pipeline.tasks, pipeline.codec, run)
    trainer = Trainer(pipeline, loader, Path(), Hooks(dict, dict, dict), "")
    trainer.start(None, "fp32", "")
    return trainer, dataset


def few(trainer: Trainer, dataset: Dataset, count: int) -> Batch:
    pipeline = trainer.pipeline
    examples = [dataset.example(row) for row in range(count)]
    return make_batch(examples, pipeline.tasks, pipeline.codec, trainer.run, 0)


def predicted(batch_size: int, parts: int) -> StepMemory:
    trainer, dataset = made(batch_size, parts)
    return predict_memory(trainer, lambda count: few(trainer, dataset, count))


def test_parts_divide_activations_and_nothing_else() -> None:
    """Guards against a batch whose images or embeddings are forgotten, and activations of the whole batch."""
    whole, parts = predicted(64, 1), predicted(64, 8)
    assert parts.activations_bytes < whole.activations_bytes / 7
    assert replace(parts, activations_bytes=0) == replace(whole, activations_bytes=0)
    assert whole.weights_bytes == 5 * whole.checkpoint_bytes // 4 > 5000, "the gradient too"
    pixels = STEPS_HELD * 64 * 3 * 24 * 24
    assert pixels < whole.batches_bytes < 2 * pixels, "token ids on top"
    embeddings = 2 * 64 * (1 + 2) * 8
    assert whole.contrast_bytes == 4 * (embeddings + COPIES * 64 * 128)
    step = whole.activations_bytes + whole.contrast_bytes
    assert step > whole.checkpoint_bytes and whole.total_bytes == whole.weights_bytes + whole.batches_bytes + step
    assert replace(whole, checkpoint_bytes=2 * step).total_bytes == whole.total_bytes + step
    assert "memory of a step" in whole.text()


def test_activations_are_what_autograd_keeps() -> None:
    """Against the storages that the graph of a whole part really holds, found by walking it."""
    trainer, dataset = made(12, 1)
    batch = few(trainer, dataset, 12)
    step = Step(trainer.pipeline.tasks, [batch], torch.device("cpu"), torch.float32, False, True, ("memory",))
    (part,) = step.parts()
    loss = part(trainer.pipeline.model, None)["retrieval"]
    weights = {one.untyped_storage().data_ptr() for one in trainer.pipeline.model.parameters()}
    held = {ptr: size for ptr, size in storages(loss.grad_fn).items() if ptr not in weights}
    found = predict_memory(trainer, lambda count: few(trainer, dataset, count)).activations_bytes / BACKWARD
    assert found == pytest.approx(sum(held.values()), rel=0.15)


def storages(node: Any) -> dict[int, int]:
    """Address -> bytes of each storage that a graph keeps."""
    found: dict[int, int] = {}
    seen, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.add(one)
        for name in (name for name in dir(one) if name.startswith("_saved_")):
            value = getattr(one, name)
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if isinstance(tensor, torch.Tensor):
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        waiting += [further for further, _ in one.next_functions]
    return found


def test_a_large_batch_holds_a_stripe_of_similarities() -> None:
    """Guards against the whole matrix in the prediction of a batch that is computed in pieces."""
    batch = 4096
    embeddings = 2 * batch * (1 + 2) * 8
    assert predicted(batch, 64).contrast_bytes == 4 * (embeddings + COPIES * PIECE_PAIRS)
