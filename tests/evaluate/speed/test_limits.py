"""Probes of the machine count what they say, and find JPEG files by their content."""

import io

import numpy as np
import torch
from PIL import Image

from chiasm.evaluate.speed import limits


def test_operations_are_counted(monkeypatch) -> None:
    """Guards against a count of multiplications alone, which would double every limit."""
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert limits.operations_of(lambda: left @ right) == 2 * 3 * 5 * 7
    monkeypatch.setattr(limits, "SIDE", 64)
    monkeypatch.setattr(limits, "median_s", lambda work, rounds=1: (work(), 0.5)[1])
    assert [limits.products_per_s(name) for name in ("fp32", "bf16", "int8")] == [2 * 64**3 / 0.5] * 3
    monkeypatch.setattr(limits, "COPIED_BYTES", 1000)
    assert limits.copied_bytes_per_s() == 2 * 1000 / 0.5


def test_slow_products_are_measured_small(monkeypatch) -> None:
    """Guards against a minute spent on products of bf16 by a machine that has no instructions for them."""
    sides: list[int] = []
    monkeypatch.setattr(limits, "_products_per_s", lambda name, side: (sides.append(side), 1e9)[1])
    assert limits.products_per_s("bf16") == 1e9 and sides == [limits.SLOW_SIDE]
    monkeypatch.setattr(limits, "_products_per_s", lambda name, side: (sides.append(side), 1e11)[1])
    assert limits.products_per_s("bf16") == 1e11 and sides[1:] == [limits.SLOW_SIDE, limits.SIDE]


def test_files_that_are_no_photos_are_not_timed(monkeypatch) -> None:
    """Guards against PNG files in a number that is named after JPEG."""
    made = {}
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(np.full((40, 50, 3), 90, dtype=np.uint8)).save(buffer, kind)
        made[kind] = buffer.getvalue()
    assert limits.decoded_per_s([made["PNG"]]) is None
    monkeypatch.setattr(limits, "median_s", lambda work, rounds: (work(), 0.25)[1])
    assert limits.decoded_per_s([made["JPEG"], made["PNG"], made["JPEG"]]) == 2 / 0.25


def test_a_median_leaves_the_first_call_out() -> None:
    """Guards against the time in which memory is asked for and code is loaded."""
    calls = []
    assert limits.median_s(lambda: calls.append(1), rounds=3) >= 0 and len(calls) == 4
