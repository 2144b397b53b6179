"""The loss of a fixed small run, step by step, against the one that was stored.

After a change that is meant to move it: `CHIASM_REGENERATE=1 python -m pytest tests/runs/test_golden.py`.
"""

import json
import os
from pathlib import Path

import pytest
from small import small_config, start

GOLDEN = Path(__file__).resolve().parent / "golden" / "small.json"
FIRST, LATER = (4, 1e-4), 1e-2
"""Rounding differs between machines and grows from step to step: the first steps are held closer than the rest."""


def test_loss_curve_is_the_stored_one(tmp_path: Path) -> None:
    """Guards against an unmeant change anywhere between scenes, tokenizer, towers, losses, optimiser and schedule."""
    start(small_config(steps=8, validate_every=8, checkpoint_every=8), tmp_path)
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in found if "loss" in row]
    if os.environ.get("CHIASM_REGENERATE"):
        GOLDEN.write_text(json.dumps(rows, indent=1) + "\n")
    stored = json.loads(GOLDEN.read_text())
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row, expected in zip(rows, stored, strict=True):
        tolerance = FIRST[1] if row["step"] <= FIRST[0] else LATER
        assert row == pytest.approx(expected, rel=tolerance), f"step {row['step']}"
