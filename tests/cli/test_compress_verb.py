"""`chiasm compress`: what it prints, its exit status, and wrong words."""

import json
from pathlib import Path

import pytest
import torch
from command import Shell, assert_nothing_half_written, assert_refused

from chiasm.compress import gate, variants
from chiasm.pipeline.pipeline import Pipeline


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither processes for memory nor rounds of timing."""
    monkeypatch.setattr(gate, "peak_memory_bytes", lambda folder: 1)
    monkeypatch.setattr(gate, "timed", lambda pipelines, requests: [(0.1, 0.2)] * len(pipelines))


def test_the_table_is_printed_and_kept(tiny_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against numbers that are printed and not in --json, or the reverse."""
    out, result = tmp_path / "small", tmp_path / "a.json"
    said = chiasm("compress", tiny_run, "--to", "int8", "--out", out, "--max-loss", 100, "--json", result)
    assert said.code == 0, said.err
    rows = json.loads(result.read_text())["variants"]
    assert "vqa_accuracy" in said.out and "passed" in said.out and str(out) in said.out
    assert f"{rows['int8']['score']['value']:.4f}" in said.out and set(rows["int8"]["latency_s"]) == {"1", "16"}


def test_a_refusal_exits_with_one_and_writes_nothing(
    tiny_run: Path, chiasm: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a script that goes on with a model that was refused, and a refusal without its numbers."""

    def ruin(pipeline: Pipeline) -> None:
        with torch.no_grad():
            for parameter in pipeline.model.heads.parameters():
                parameter.neg_()

    monkeypatch.setitem(variants.VARIANTS, "int8", ruin)
    said = chiasm("compress", tiny_run, "--to", "int8", "--out", tmp_path / "small")
    assert said.code == 1 and "int8 loses" in said.err and "--max-loss" in said.err and "refused" in said.err
    assert not (tmp_path / "small").exists()
    assert_nothing_half_written(tmp_path)


def test_wrong_words_are_refused(tiny_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a variant that does not exist and a folder that is taken."""
    assert_refused(chiasm("compress", tiny_run, "--to", "int4", "--out", tmp_path / "small"), "--to int4")
    assert_refused(chiasm("compress", tiny_run, "--to", "int8", "--out", tiny_run), "exists")
