"""A split encoded once for all passes over it: the very tokens of a pass of its own, and no image decoded twice."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasm.core.types import IMAGE, Example, ImageRef, Tokens
from chiasm.data.ledger import Ledger
from chiasm.evaluate import encoded_once
from chiasm.evaluate.calibrating import fit_calibration
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import measure
from chiasm.pipeline.batching import input_values
from chiasm.pipeline.pipeline import Pipeline


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_once, "CHUNK", 5)


def counted(examples: list[Example], decoded: Counter[str]) -> list[Example]:
    """The examples, whose images count how often they are decoded."""

    def watched(example: Example) -> Example:
        ref: ImageRef = example.inputs[IMAGE]

        def load() -> np.ndarray:
            decoded[example.id] += 1
            return ref.load()

        return replace(example, inputs={**example.inputs, IMAGE: ImageRef(load, ref.content_key)})

    return [watched(example) for example in examples]


def test_the_end_of_a_run_decodes_each_image_once(
    pipeline: Pipeline, examples: list[Example], small_parts: None
) -> None:
    """Guards against validation images that are decoded and encoded anew for calibration and for each view."""
    decoded: Counter[str] = Counter()
    watched = counted(examples, decoded)
    encoded = EncodedOnce(pipeline, watched)
    fitted = fit_calibration(pipeline, watched, encoded).apply(pipeline)
    measure(pipeline, watched, Ledger(), "val", Console(file=io.StringIO()), fitted, encoded)
    assert set(decoded.values()) == {1} and len(decoded) == len(examples)
    decoded.clear()
    measure(pipeline, watched, Ledger(), "val", Console(file=io.StringIO()))
    assert set(decoded.values()) == {1}, "the views of a measurement share one encoding too"


@pytest.mark.parametrize("most_bytes", [0, 20_000, 2**30])
def test_shared_tokens_are_those_of_a_pass_of_its_own(
    pipeline: Pipeline, examples: list[Example], small_parts: None, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    """Guards against another example's tokens in a view, whether all, some or none of them are kept."""
    monkeypatch.setattr(encoded_once, "MOST_BYTES", most_bytes)
    encoded = EncodedOnce(pipeline, examples)
    own = []
    for start in range(0, len(examples), encoded.chunk):
        part = examples[start : start + encoded.chunk]
        own.append(pipeline.encode(input_values(part, pipeline.config.model, 1, pipeline.resizing))[IMAGE])
        assert torch.equal(encoded.part(start)[IMAGE].values, own[-1].values)
    whole = Tokens.joined(own)
    order = [int(place) for place in np.random.default_rng(0).permutation(len(examples))[:9]]
    # Not to the last bit where they are encoded anew: a convolution may round otherwise in another batch.
    torch.testing.assert_close(encoded.rows(order)[IMAGE].values, whole.values[order])
    torch.testing.assert_close(encoded.rows(order)[IMAGE].pooled, whole.pooled[order])
    shared = evaluate(pipeline, examples, "shuffled", encoded=encoded).scores
    for name, score in evaluate(pipeline, examples, "shuffled").scores.items():
        assert shared[name].value == pytest.approx(score.value, abs=1e-5), name


def test_examples_without_one_image_each_are_encoded_anew(
    pipeline: Pipeline, examples: list[Example], small_parts: None
) -> None:
    """Guards against rows of several images that are joined with rows of one."""
    first = examples[0].inputs[IMAGE]
    mixed = [replace(example, inputs={IMAGE: (example.inputs[IMAGE], first)}) for example in examples[:5]]
    mixed += [examples[5], replace(examples[6], inputs={}), *examples[7:10]]
    encoded = EncodedOnce(pipeline, mixed)
    shared = evaluate(pipeline, mixed, "shuffled", encoded=encoded)
    assert len(encoded.part(0)[IMAGE].values) == len(encoded.part(5)[IMAGE].values) == 5
    for name, score in evaluate(pipeline, mixed, "shuffled", encoded=encoded).scores.items():
        assert shared.scores[name].value == pytest.approx(score.value, abs=1e-5), name
