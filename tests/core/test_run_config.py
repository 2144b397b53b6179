"""What no single field can check: one call after all overrides."""

from dataclasses import replace

import pytest

from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import StageConfig, TrainConfig


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("tiny", [False, True])
def test_recipes_pass(name: str, tiny: bool) -> None:
    """Guards against a recipe that its own program refuses; real data gets its path from the user."""
    config = find_recipe(name, tiny)
    if config.data.source == "files":
        with pytest.raises(InputError, match=r"data\.path is not set"):
            config.check()
        config = override(config, ["data.path=somewhere"])
    config.check()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.batch_size=0"], "train.batch_size is 0"),
        (["train.accumulate=0"], "train.accumulate is 0"),
        (["train.lr=-1"], "train.lr is -1"),
        (["train.clip_norm=0"], "train.clip_norm is 0"),
        (["train.keep_checkpoints=0"], "train.keep_checkpoints is 0"),
        (["model.dim=0"], "model.dim is 0"),
        (["model.heads=0"], "model.heads is 0"),
        (["model.image.size_px=-1"], "model.image.size_px is -1"),
        (["data.questions_per_picture=0"], "data.questions_per_picture is 0"),
        (["train.steps=0", "train.epochs=0"], "both 0"),
        (["train.batch_size=10", "train.accumulate=3"], "no multiple of train.accumulate 3"),
        (["model.dim=100", "model.heads=3"], "no multiple of model.heads 3"),
        (["train.ema_decay=1"], "train.ema_decay is 1"),
        (["train.ema_decay=-0.1"], "train.ema_decay is -0.1"),
        (["data.languages="], "data.languages is empty"),
        (["data.workers=-1"], "data.workers is -1"),
        (["data.source=files", "data.random_crop=0"], "data.random_crop is 0"),
        (["data.random_crop=0.5"], "'data.random_crop' means something for data.source files alone"),
        (["data.symmetries=true"], "'data.symmetries' means something for data.source sort_of_clevr alone"),
        (["data.source=sort_of_clevr", "data.eval_pictures=3"], "for data.source scenes or boxes or rainbow alone"),
        (["model.text.max_tokens=2"], "model.text.max_tokens is 2"),
        (
            ["tasks.retrieval.distil=0.4"],
            "tasks.retrieval learns from a teacher, and train has neither teacher nor ema_decay",
        ),
        (["tasks.retrieval.distil=1", "train.ema_decay=0.9"], "tasks.retrieval.distil is 1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(words: list[str], part: str) -> None:
    """Guards against a crash in the middle of a run, or a division by zero in the check itself."""
    with pytest.raises(InputError) as caught:
        override(find_recipe("demo"), words).check()
    assert part in str(caught.value)


def test_a_stage_that_cannot_learn_from_an_average_is_refused_before_the_first_one() -> None:
    """Guards against hours of one stage before the next one is refused, and a teacher that is wanted where it is."""
    config = find_recipe("demo")
    learns = {"retrieval": RetrievalConfig(distil=0.4)}
    for decay in (0.0, 0.995):
        stage = StageConfig(tasks=learns, train=TrainConfig(steps=1, ema_decay=decay))
        staged = replace(config, stages={"first": StageConfig(train=TrainConfig(steps=1)), "second": stage})
        if decay:
            staged.check()
        else:
            with pytest.raises(InputError, match=r"stages\.second\.tasks\.retrieval learns from"):
                staged.check()


def test_a_run_without_tasks_is_refused() -> None:
    """Guards against training that has nothing to learn and saves an untouched model."""
    config = find_recipe("demo")
    config.tasks.clear()
    with pytest.raises(InputError, match="no task is named"):
        config.check()
