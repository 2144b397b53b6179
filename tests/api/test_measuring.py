"""`chiasm.evaluate` is `chiasm evaluate`."""

import json
from pathlib import Path

import pytest
from PIL import Image

import chiasm
from chiasm.core.errors import InputError
from tiny_talker import pictures, save_talking_run
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


def test_what_evaluation_alone_reads_may_be_set(tmp_path: Path) -> None:
    """Guards against a run trained without writing that cannot be measured by writing, and a model that is changed."""
    run, data = save_talking_run(tmp_path / "runs" / "talker"), tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = []
    for number, pixels in enumerate(pictures(3)):
        Image.fromarray(pixels).save(data / "images" / f"{number}.png")
        rows.append({"image": f"images/{number}.png", "split": "val", "captions": [f"a dog {number}"]})
    (data / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = chiasm.load(run)
    task = model.pipeline.tasks["conversation"]
    before = (model.pipeline.config, task.config)
    brief = chiasm.evaluate(model, data, tasks__conversation__writes=False, progress=False)
    assert "CIDEr" not in brief.metrics and "reply_token_probability" in brief.metrics
    assert (model.pipeline.config, task.config) == before
    assert "CIDEr" in chiasm.evaluate(model, data, tasks__conversation__pope_images=0, progress=False).metrics
    with pytest.raises(InputError, match=r"tasks\.conversation\.writes=VALUE"):
        chiasm.evaluate(model, data, tasks__conversation__captions_per_picture=1, progress=False)
    with pytest.raises(InputError, match="pope_images is -1"):
        chiasm.evaluate(model, data, tasks__conversation__pope_images=-1, progress=False)
    assert (model.pipeline.config, task.config) == before


def test_a_task_without_such_keys_says_so(tiny_run: Path) -> None:
    """Guards against an empty list of what is allowed."""
    with pytest.raises(InputError, match="no such key"):
        chiasm.evaluate(tiny_run, tasks__vqa__weight=2, progress=False)
