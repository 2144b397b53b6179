"""A step in parts is the step of the whole batch, however its captions and questions are spread over the parts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chiasm.data.dataset import ListDataset
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import TaskConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, TrainConfig, weighed_tasks
from chiasm.train.loader import Loader
from chiasm.train.trainer import Hooks, Trainer

COUNTS = [(0, 3), (2, 0), (1, 1), (0, 0), (3, 2), (1, 0)]
"""Captions and questions of each picture."""


def config(tasks: dict[str, TaskConfig], weighting: str, accumulate: int) -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    model = replace(demo.model, dim=16, embedding_dim=8, dropout=0.0, image=image)
    train = TrainConfig(batch_size=6, accumulate=accumulate, steps=1, lr=1e-3, precision="fp32", weighting=weighting)
    return replace(demo, model=model, tasks=tasks, train=train)


def first_step(run: RunConfig, folder: Path) -> dict[str, float]:
    scenes = open_dataset(run.data, "train", 0)
    examples = []
    for number, (captions, questions) in enumerate(COUNTS):
        whole = scenes.example(number)
        said = [replace(one, text=f"{one.text} {'very ' * more}red") for more in range(3) for one in whole.captions[:1]]
        examples.append(replace(whole, captions=tuple(said[:captions]), questions=whole.questions[:questions]))
    torch.manual_seed(0)
    pipeline = Pipeline.build(run, examples, torch.device("cpu"), learned_weights=weighed_tasks(run))
    loader = Loader(ListDataset("train", examples, Ledger()), pipeline.tasks, pipeline.codec, run)
    made = Trainer(pipeline, loader, folder, Hooks(dict, dict, dict), "loss")
    made.start(None, "fp32", "")
    return made.step(loader.batches(0))


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "pcgrad"])
@pytest.mark.parametrize("objective", ["softmax", "soft", "generate"])
def test_parts_make_the_step_of_the_whole(objective: str, weighting: str, tmp_path: Path) -> None:
    """Guards against parts that count alike although one has three captions and another none."""
    tasks = {"captioning": CaptioningConfig(captions_per_picture=3), "vqa": VqaConfig(objective=objective)}
    whole = first_step(config(tasks, weighting, 1), tmp_path)
    for parts in (2, 6):
        assert first_step(config(tasks, weighting, parts), tmp_path) == pytest.approx(whole, rel=1e-4)
