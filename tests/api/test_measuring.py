"""`chiasm.evaluate` is `chiasm evaluate`."""

from pathlib import Path

import pytest

import chiasm
from typed_json import typed_json


def test_evaluate_is_the_commands(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two doors that lead to different numbers, and against a model that measuring has changed."""
    monkeypatch.chdir(tmp_path)
    model = chiasm.load(tiny_run)
    before = (model.pipeline.config, model.pipeline.codec.decoding)
    found = chiasm.evaluate(model, split="test", data__eval_pictures=6, decoding__method="beam", progress=False)
    assert (model.pipeline.config, model.pipeline.codec.decoding) == before
    keys = ["--set", "data.eval_pictures=6", "--set", "decoding.method=beam"]
    said = typed_json("evaluate", str(tiny_run), "--split", "test", *keys)
    assert found.as_dict() | {"run": str(tiny_run)} == said
    assert said["metrics"] == {name: score.as_dict() for name, score in found.metrics.items()}
    assert said["blind"] == {name: score.as_dict() for name, score in found.blind.items()}
    assert "6 images of split 'test'" in repr(found) and "vqa_accuracy" in repr(found)
