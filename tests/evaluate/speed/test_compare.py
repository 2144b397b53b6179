"""Rounds are interleaved, ratios are of the same round, and accuracy is that of the vectors that were timed."""

from itertools import count

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.evaluate.speed import compare
from chiasm.evaluate.speed.compare import WORKS, inputs_of, timed
from chiasm.pipeline.pipeline import Pipeline

TRUTH = np.array([[1.0, 0.0], [0.0, 1.0]])


def test_ratios_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against ratios of medians, which a machine that slows down between two engines would move."""
    order: list[str] = []
    clock = {"now": 0.0}
    rounds = count()
    slowdown = [1, 1, 10, 10, 1]  # of the machine, by round
    current = {"round": 0}

    def call(name: str, seconds: float, vectors: np.ndarray):
        def work() -> np.ndarray:
            order.append(name)
            if name == "chiasm fp32":
                current["round"] = max(next(rounds) - 1, 0)
            clock["now"] += seconds * slowdown[current["round"]]
            return vectors

        return work

    monkeypatch.setattr(compare.time, "perf_counter", lambda: clock["now"])
    turned = np.array([[0.6, 0.8], [0.0, 2.0]])

    def broken() -> np.ndarray:
        raise ValueError("no\nkernel")

    absent: dict[str, str] = {}
    calls = {"chiasm fp32": call("chiasm fp32", 2.0, TRUTH), "other": call("other", 1.0, turned), "broken": broken}
    fast, slow = timed(calls, 2, 5, "chiasm fp32", absent)
    assert (fast.engine, slow.engine) == ("other", "chiasm fp32")
    assert fast.ratio == pytest.approx(2.0) and slow.ratio == 1.0
    assert fast.per_s == pytest.approx(2.0) and slow.per_s == pytest.approx(1.0)
    assert fast.cosine == pytest.approx((0.8, 0.6)) and slow.cosine == (1.0, 1.0)
    assert order == ["chiasm fp32", "other"] * 6 and absent == {"broken": "ValueError: no kernel"}


def test_a_pipeline_is_measured(pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against works without a row, and limits that are not those of the model."""
    monkeypatch.setattr(compare, "other_engines", lambda *given: ([], {"another": "not installed: pip install it"}))
    names = [f"{name}_operations_per_s" for name in ("fp32", "bf16", "int8")]
    monkeypatch.setattr(compare, "machine_limits", lambda contents: dict.fromkeys(names, 1e9))
    found = compare.compare(pipeline, examples, 4, 1)
    assert list(found.works) == list(WORKS) and found.baseline == "chiasm fp32"
    assert all([line.engine for line in lines] == ["chiasm fp32"] for lines in found.works.values())
    assert found.operations["images"] > 1e4
    assert found.most_per_s("files", "bf16") == pytest.approx(1e9 / found.operations["images"])
    assert found.most_per_s("texts", "int8") == pytest.approx(1e9 / found.operations["texts"])


def test_inputs_are_repeated_or_refused(examples: list[Example]) -> None:
    """Guards against a batch that is smaller than the number that its speed is computed with."""
    inputs = inputs_of(examples[:3], 7)
    assert len(inputs.contents) == len(inputs.texts) == 7 and inputs.contents[0] == inputs.contents[3]
    with pytest.raises(InputError, match="without caption or question"):
        inputs_of([Example("a", examples[0].inputs)], 2)
    with pytest.raises(InputError, match="without image"):
        inputs_of([], 2)
