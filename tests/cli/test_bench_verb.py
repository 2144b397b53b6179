"""`chiasm bench` prints limits and speeds, and writes both files."""

import json
from pathlib import Path

import pytest
from command import Shell, assert_refused

from chiasm.evaluate.speed import compare


def test_speeds_are_printed_and_written(
    chiasm: Shell, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against engines that are absent without a word, and files that are not written."""
    monkeypatch.setattr(compare, "other_engines", lambda *given: ([], {"another": "not installed: pip install it"}))
    page, numbers = tmp_path / "bench.html", tmp_path / "bench.json"
    said = chiasm("bench", tiny_run, "--batch", "2", "--rounds", "1", "--page", page, "--json", numbers)
    assert said.code == 0, said.err
    assert "matrix products" in said.out and said.out.count("chiasm fp32") >= 3
    assert "another: not installed: pip install it" in said.err
    assert json.loads(numbers.read_text(encoding="utf-8"))["baseline"] == "chiasm fp32"
    assert "meter-fill" in page.read_text(encoding="utf-8")


def test_a_run_that_is_not_there(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a traceback."""
    assert_refused(chiasm("bench", tmp_path / "nothing"), "nothing")
