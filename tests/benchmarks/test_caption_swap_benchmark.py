"""The comparison with and without hard negatives runs from a trained run to its table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "caption_swap.py"


@pytest.mark.long
def test_scenes_are_compared(tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a benchmark that measures without the swaps that it is about, which a refactoring once left."""
    found = tmp_path / "found.json"
    words = ["scenes", "--base", tiny_run, "--epochs", "0.01", "--json", found]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["scenes"]["rows"]
    assert list(rows) == ["before", "further, without", "further, with"]
    for row in rows.values():
        assert 0 <= row["metrics"]["caption_swap_accuracy"]["value"] <= 1 and row["by_kind"]["caption_swap_accuracy"]
    assert rows["further, with"]["metrics"] != rows["further, without"]["metrics"]
