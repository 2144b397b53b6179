"""`chiasm.train` is `chiasm train`."""

from pathlib import Path

import pytest

import chiasm
from typed_json import typed_json


def test_train_is_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run from Python that is another run than the one that is typed."""
    monkeypatch.chdir(tmp_path)
    run = chiasm.train("demo", out="python", tiny=True, overrides={"train.steps": 3}, seed=5, progress=False)
    said = typed_json("train", "demo", "--out", "typed", "--tiny", "--set", "train.steps=3", "--set", "seed=5")
    written = run.as_dict()
    for key in ("metrics", "blind", "by_kind", "baseline", "data", "split"):
        assert written[key] == said[key], key
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("python", "typed")]
    assert weights[0] == weights[1]
    assert run.report.is_file() and run.model.tasks == ("retrieval", "vqa", "captioning")
    assert run.verdict is not None and run.verdict.lines()[0] in repr(run)
    assert {name: one.as_dict() for name, one in run.metrics.items()} == written["metrics"]


def test_a_stopped_run_goes_on_without_its_recipe(tmp_path: Path) -> None:
    """Guards against a door that can begin and not go on: a finished run is as it was."""
    first = chiasm.train("demo", out=tmp_path / "run", tiny=True, train__steps=3, progress=False)
    again = chiasm.train(resume=True, out=tmp_path / "run", progress=False)
    assert again.config == first.config and again.metrics == first.metrics
    with pytest.raises(chiasm.InputError, match="no recipe"):
        chiasm.train(out=tmp_path / "other")
