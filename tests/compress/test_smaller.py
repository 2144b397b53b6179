"""A compressed run is a run folder like any other, and appears only where the gate lets it through."""

import json
from pathlib import Path

import pytest
import torch

import chiasm
from chiasm.compress import gate, variants
from chiasm.compress.smaller import PAGE, RECORD
from chiasm.core.errors import InputError, JobError
from chiasm.core.run_folder import verify_folder
from chiasm.pipeline.pipeline import Pipeline


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither processes for memory nor rounds of timing."""
    monkeypatch.setattr(gate, "peak_memory_bytes", lambda folder: 1)
    monkeypatch.setattr(gate, "timed", lambda pipelines, requests: [(0.1, 0.2)] * len(pipelines))


def ruin(pipeline: Pipeline) -> None:
    """Turn every head around."""
    with torch.no_grad():
        for parameter in pipeline.model.heads.parameters():
            parameter.neg_()


def test_the_smallest_that_passes_is_written(tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a folder that does not open, or that has another variant than is told."""
    out = tmp_path / "small"
    found = chiasm.compress(tiny_run, out, ["bf16", "int8"], max_loss=100, progress=False)
    assert found.chosen == "int8" and [one.name for one in found.variants] == ["as it was", "bf16", "int8"]
    verify_folder(out, "run")
    opened = Pipeline.load(out, torch.device("cpu"))
    assert opened.packing == opened.config.model.execution == "int8"
    first, middle, small = (one.folder_bytes for one in found.variants)
    assert small < middle < first and small == (out / "model.safetensors").stat().st_size
    record = json.loads((out / RECORD).read_text())
    assert record["variants"]["int8"]["difference"]["n"] == found.variants[0].score.n
    assert "int8" in (out / PAGE).read_text() and list(tmp_path.iterdir()) == [out]


def test_it_opens_answers_evaluates_and_exports(tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a folder that only `load` understands."""
    out = tmp_path / "small"
    found = chiasm.compress(tiny_run, out, max_loss=100, progress=False)
    model = chiasm.load(out)
    assert model.caption(out / "example.png").answer == chiasm.load(out).caption(out / "example.png").answer
    measured = chiasm.evaluate(out, progress=False)
    assert measured.metrics[found.metric].value == pytest.approx(found.variants[1].score.value)
    chiasm.export(out, tmp_path / "copy", to="run")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_ruined_variant_is_refused_and_nothing_is_written(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a gate that only warns, and against a half-written folder that is left."""
    monkeypatch.setitem(variants.VARIANTS, "int8", ruin)
    with pytest.raises(JobError, match=r"int8 loses .* points of vqa_accuracy[^!]*nothing was written") as caught:
        chiasm.compress(tiny_run, tmp_path / "small", progress=False)
    assert caught.value.exit_code == 1 and "--max-loss" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "loss", "told"),
    [("int9", 1.0, "did you mean 'int8'"), ("int8", -1.0, "--max-loss"), ((), 1.0, "--to"), (("int8",) * 2, 1, "--to")],
)
def test_wrong_words_are_refused_before_anything_is_opened(
    to: str | tuple[str, ...], loss: float, told: str, tmp_path: Path
) -> None:
    """Guards against minutes of measuring before a typing mistake is told."""
    with pytest.raises(InputError, match=told):
        chiasm.compress(tmp_path / "missing", tmp_path / "small", to, max_loss=loss, progress=False)


def test_a_folder_that_is_taken_is_left_alone(tiny_run: Path) -> None:
    """Guards against the run itself being overwritten by its variant."""
    before = (tiny_run / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists"):
        chiasm.compress(tiny_run, tiny_run, progress=False)
    assert (tiny_run / "model.safetensors").read_bytes() == before
