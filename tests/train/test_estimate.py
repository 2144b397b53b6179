"""Times of a run that are told before it: every part is counted."""

import math
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.core.config import override
from chiasm.recipes.table import find_recipe
from chiasm.train import estimate as module
from chiasm.train.estimate import estimate


@pytest.mark.parametrize(("steps", "every", "validations"), [(6, 3, 2), (25, 0, 13), (1500, 300, 5)])
def test_every_part_is_counted(
    steps: int, every: int, validations: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against minutes of training alone, and a limit that does not bound training with its validations."""
    monkeypatch.setattr(module, "_step_s", lambda trainer: 2.0)
    monkeypatch.setattr(module, "_evaluation_s", lambda pipeline, examples, wanted="": 0.25 if wanted else 0.5)
    changes = [f"train.steps={steps}", f"train.validate_every={every}", "train.limit_s=0", "train.precision=fp32"]
    config = override(find_recipe("demo", tiny=True), changes)
    found = estimate(config, Console(quiet=True))
    pictures = config.data.eval_pictures
    assert found.validations == validations == math.ceil(steps / (every or max(1, steps // 10)))
    assert found.times.training_s == 2.0 * steps and found.times.encoding_s == 0
    assert found.times.validation_s == validations * pictures * 0.25, "one metric"
    assert found.times.measuring_s == (2 + 4) * pictures * 0.5
    assert f"{found.times.total_s / 60:.1f} minutes here" in found.text()
    limited = estimate(override(config, ["train.limit_s=250"]), Console(quiet=True))
    assert limited.times.training_s == max(0.0, min(2.0 * steps, 250 - limited.times.validation_s))


def test_stages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the minutes of the last stage for those of all."""
    seconds = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(module, "_step_s", lambda trainer: next(seconds))
    monkeypatch.setattr(module, "_evaluation_s", lambda pipeline, examples, wanted="": 0.0)
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
