"""How many steps a run plans."""

import pytest

from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.train.config import TrainConfig
from chiasm.train.length import FIT_AFTER_STEPS, TimeLimit, fitting_batch, planned_length
from chiasm.train.state import Progress


@pytest.mark.parametrize(
    ("examples", "batch", "steps"), [(6000, 512, 220), (6000, 64, 1860), (1000, 512, 200), (80, 80, 200), (5, 5, 200)]
)
def test_epochs_decide_and_the_floor_holds(examples: int, batch: int, steps: int) -> None:
    """Guards against ten steps on eighty pictures, and against a floor that shortens long runs."""
    found = planned_length(TrainConfig(epochs=20, least_steps=200), examples, batch)
    assert found.steps == steps
    assert ("train.least_steps" in found.why) == (steps == 200)
    assert f"{steps:,} steps" in found.why


@pytest.mark.parametrize(
    ("examples", "share", "size"), [(6000, 1, 64), (256, 1, 64), (80, 1, 20), (80, 32, 32), (3, 1, 1), (3, 2, 2)]
)
def test_few_examples_make_smaller_batches(examples: int, share: int, size: int) -> None:
    """Guards against a pass of one batch and a rest left out, and a batch that processes cannot share."""
    assert fitting_batch(TrainConfig(batch_size=64, least_batches=4), examples, share) == size
    assert fitting_batch(TrainConfig(batch_size=64), examples) == min(64, examples)


def test_steps_that_are_set_are_taken() -> None:
    """Guards against a floor above what somebody asked for."""
    assert planned_length(TrainConfig(steps=7, epochs=20, least_steps=200), 6000, 64).steps == 7


def test_every_recipe_on_files_has_a_floor() -> None:
    """Guards against a recipe of one's own data whose length fits thousands of pictures alone."""
    for name in RECIPES:
        config = find_recipe(name, files=True)
        if config.data.source == "files" and config.train.epochs and name != "nlvr":
            assert planned_length(config.train, 80, fitting_batch(config.train, 80)).steps >= 100, name


def test_flickr8k_recipes_keep_their_length() -> None:
    """Guards against a floor that moves the published numbers."""
    known = {"flickr8k_retrieval": 220, "flickr8k_captions": 930, "another_language": 690, "reranking": 345}
    for name, steps in known.items():
        train = find_recipe(name).train
        assert planned_length(train, 6000, train.batch_size).steps == steps, name


def test_a_progress_bar_knows_the_time_limit_from_the_first_step() -> None:
    """Guards against hours left on the screen of a run that may take a quarter of one."""
    progress = Progress(precision="fp32", precision_why="", total_steps=12_000)
    unlimited, limit = TimeLimit(0, 12_000, progress), TimeLimit(840, 12_000, progress)
    assert limit.likely_steps == 12_000
    progress.step, progress.trained_s = 4, 10.0
    assert (unlimited.likely_steps, limit.likely_steps) == (12_000, 4 + 332)
    progress.trained_s = 4000.0
    assert limit.likely_steps == FIT_AFTER_STEPS, "the first check comes then, and shortens the run"
    progress.step, progress.total_steps = FIT_AFTER_STEPS, 300
    assert limit.likely_steps == 300
