"""A run's config: what each section refuses, and the keys of run folders of format 1."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.config import from_dict, override, to_dict
from chiasm.core.errors import InputError
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig, StageConfig, TrainConfig, stored_run_config
from chiasm.train.run import check_same
from chiasm.train.state import Progress, read_progress

FORMAT_1 = Path(__file__).resolve().parent.parent / "pipeline" / "format_1"


def stored() -> dict[str, Any]:
    return dict(json.loads((FORMAT_1 / "config.json").read_text(encoding="utf-8")))


def test_a_config_of_format_1_is_read_by_the_present_keys() -> None:
    """Guards against a run of the version before that cannot go on: its retention check stood under `train.probe`."""
    values = stored()
    assert "retention" not in values["train"], "the stored folder is of the version before"
    values["train"]["probe"] |= {"path": "old", "max_drop": 0.25, "on_drop": "stop"}
    stage = {"tasks": {}, "train": {"steps": 3, "probe": {"path": "older"}}}
    config = stored_run_config({**values, "stages": {"first": stage}}, "config.json")
    assert (config.train.retention.path, config.train.retention.max_drop) == ("old", 0.25)
    assert config.train.retention.on_drop == "stop" and config.stages["first"].train.retention.path == "older"
    assert stored_run_config(to_dict(config), "config.json") == config
    with pytest.raises(InputError, match="unknown key 'probe'"):
        from_dict(RunConfig, values, is_stored=True)
    with pytest.raises(InputError, match=r"unknown key 'probing' in config\.json\.train"):
        stored_run_config({**values, "train": {"probing": {}}}, "config.json")


def test_counters_of_format_1_are_read(tmp_path: Path) -> None:
    """Guards against a resumed run that has forgotten what the old domain's score was before its first step."""
    before = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    (tmp_path / "progress.json").write_text(json.dumps({"step": 7, "probe_before": before, "stopped": ""}))
    assert read_progress(tmp_path) == Progress(step=7, retention_before=before)


@pytest.mark.parametrize("name", ["path", "max_drop", "on_drop", "examples"])
def test_a_typed_key_of_before_is_refused_with_its_present_name(name: str) -> None:
    """Guards against `--set train.probe.path=OLD` of an old note that is taken for another path, or for nothing."""
    with pytest.raises(InputError, match=rf"did you mean 'train\.retention\.{name}'"):
        override(find_recipe("demo"), [f"train.probe.{name}=1"])


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("train.batch_size=0", "train.batch_size is 0"),
        ("train.process_timeout_s=-1", "train.process_timeout_s is -1"),
        ("train.lr=-1", "train.lr is -1"),
        ("train.accumulate=3", "is no multiple of train.accumulate 3"),
        ("train.layer_decay=1.5", "train.layer_decay is 1.5"),
        ("train.ema_decay=1", "train.ema_decay is 1"),
        ("train.retention.examples=1", "train.retention.examples is 1"),
        ("model.heads=0", "model.heads is 0"),
        ("model.heads=5", "is no multiple of model.heads 5"),
        ("model.least_cosine=2", "model.least_cosine is 2"),
        ("model.text.max_tokens=2", "model.text.max_tokens is 2"),
        ("data.questions_per_picture=0", "data.questions_per_picture is 0"),
    ],
)
def test_each_section_refuses_what_cannot_be(setting: str, part: str) -> None:
    """Guards against a section whose check is not called, and a message without the key."""
    config = find_recipe("demo")
    config.check()
    with pytest.raises(InputError, match=part.replace(".", r"\.")):
        override(config, [setting]).check()


def test_what_spans_sections_is_refused() -> None:
    """Guards against a stage's check that is forgotten, and a run that would train nothing."""
    config = find_recipe("demo")
    retention = replace(config.train.retention, on_drop="stop")
    stage = StageConfig(tasks=config.tasks, train=TrainConfig(steps=1, retention=retention))
    with pytest.raises(InputError, match=r"stages\.first\.train\.retention\.path is not set"):
        replace(config, stages={"first": stage}).check()
    with pytest.raises(InputError, match=r"train\.steps and train\.epochs are both 0"):
        replace(config, train=replace(config.train, steps=0, epochs=0)).check()
    with pytest.raises(InputError, match="no task is named"):
        replace(config, tasks={}).check()


@pytest.mark.parametrize(("written", "is_exact"), [({}, True), ({"accumulate": 1}, True), ({"accumulate": 2}, False)])
def test_a_stored_run_goes_on_contrasting_as_it_did(written: dict[str, int], is_exact: bool) -> None:
    """Guards against a resumed run in parts whose contrast changes in the middle, and a new run that is not exact."""
    values = stored()
    values["train"] = {key: value for key, value in values["train"].items() if key != "accumulate"} | written
    assert stored_run_config(values, "config.json").train.exact_contrast == is_exact
    assert TrainConfig(accumulate=2).exact_contrast
    kept = TrainConfig(accumulate=2)
    again = stored_run_config({**values, "train": to_dict(kept)}, "config.json")
    assert again.train == kept


def test_a_resumed_run_may_change_how_it_runs_and_nothing_else(tmp_path: Path) -> None:
    """Guards against a timeout that its own error says to raise, and --resume refuses."""
    stored = find_recipe("demo", tiny=True)
    check_same(stored, override(stored, ["train.process_timeout_s=5", "train.shards=true"]), tmp_path)
    with pytest.raises(InputError, match=r"train\.lr"):
        check_same(stored, override(stored, ["train.lr=0.5"]), tmp_path)
