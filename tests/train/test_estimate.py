"""Times of a run that are told before it: every part is counted."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from chiasm.core.config import override
from chiasm.data.opening import open_dataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train import estimate as module
from chiasm.train.estimate import PassTime, estimate


@pytest.mark.parametrize(("steps", "every", "validations"), [(6, 3, 2), (25, 0, 13), (1500, 300, 5)])
def test_every_part_is_counted(
    steps: int, every: int, validations: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against minutes of training alone, and a limit that does not bound training with its validations."""
    monkeypatch.setattr(module, "_step_s", lambda trainer: 2.0)
    times = {True: PassTime(8.0, 0.25), False: PassTime(16.0, 0.5)}
    monkeypatch.setattr(module, "_pass_time", lambda pipeline, examples, wanted="": times[bool(wanted)])
    changes = [f"train.steps={steps}", f"train.validate_every={every}", "train.limit_s=0", "train.precision=fp32"]
    config = override(find_recipe("demo", tiny=True), changes)
    found = estimate(config, Console(quiet=True))
    pictures = config.data.eval_pictures
    assert found.validations == validations == math.ceil(steps / (every or max(1, steps // 10)))
    assert found.times.training_s == 2.0 * steps and found.times.encoding_s == 0
    assert found.times.validation_s == validations * (8.0 + pictures * 0.25), "one metric"
    assert found.times.measuring_s == (2 + 1) * 16.0 + (2 + 4) * pictures * 0.5, "blind views are of one pass"
    assert f"{found.times.total_s / 60:.1f} minutes here" in found.text()
    limited = estimate(override(config, ["train.limit_s=250"]), Console(quiet=True))
    assert limited.times.training_s == max(0.0, min(2.0 * steps, 250 - limited.times.validation_s))


@pytest.mark.parametrize(("image_s", "evaluated"), [(0.25, [1, 1, 8, 40]), (2.0, [1, 1, 8])])
def test_what_a_pass_costs_once_is_not_counted_an_image(
    image_s: float, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against hours that a few plain questions, or weights prepared once, became for a thousand images."""
    counts: list[int] = []
    once = [60.0]

    def evaluation(pipeline: object, examples: list[object], wanted: str = "") -> None:
        counts.append(len(examples))

    def seconds(work: Callable[[], object]) -> float:
        work()
        return (once.pop() if once else 0.0) + 1.0 + image_s * counts[-1]

    monkeypatch.setattr(module, "evaluate", evaluation)
    monkeypatch.setattr(module, "_seconds", seconds)
    config = find_recipe("demo", tiny=True)
    dataset = open_dataset(config.data, "train", 0)
    examples = [dataset.example(number) for number in range(40)]
    found = module._pass_time(Pipeline.build(config, examples, torch.device("cpu")), examples)
    assert (found.fixed_s, found.image_s) == pytest.approx((1.0, image_s)) and counts == evaluated
    assert found.of(1000) == pytest.approx(1.0 + 1000 * image_s)


def test_stages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the minutes of the last stage for those of all."""
    seconds = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(module, "_step_s", lambda trainer: next(seconds))
    monkeypatch.setattr(module, "_pass_time", lambda pipeline, examples, wanted="": PassTime(0.0, 0.0))
    config = find_recipe("albef", tiny=True)
    found = estimate(config, Console(quiet=True))
    names = list(config.stages)
    assert list(found.stages_s) == names and names
    assert all(
        found.stages_s[name] >= (1 + place) * config.stages[name].train.steps for place, name in enumerate(names)
    )
    assert found.total_s == pytest.approx(sum(found.stages_s.values()) + found.times.total_s)
    assert all(f"stage {name}" in found.text() for name in names)


def test_a_stage_may_train_what_the_run_freezes() -> None:
    """Guards against a stage that is built from the run's frozen towers, which `chiasm show dalle` refused."""
    found = estimate(find_recipe("dalle", tiny=True), Console(quiet=True))
    assert list(found.stages_s) == ["codes"] and 0 < found.trained_parameters < found.parameters
