"""A split encoded once for all passes over it: the very tokens of a pass of its own, and no image decoded twice."""

import io
import os
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import multiprocessing

from chiasm.core.distributed import process_group
from chiasm.core.types import IMAGE, Example, ImageRef, Tokens
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
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


def one_of_two(process: int, port: int, folder: str, start: int) -> None:
    """Opens the run in a folder, and shares the encoding of its scenes with the other process."""
    os.environ.update(RANK=str(process), LOCAL_RANK=str(process), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    encoded_once.CHUNK, encoded_once.MOST_BYTES = 5, start
    pipeline = Pipeline.load(Path(folder), torch.device("cpu"))
    scenes = open_dataset(pipeline.config.data, "val", 0)
    examples, decoded = [scenes.example(number) for number in range(len(scenes))][:23], Counter[str]()
    with process_group(60.0):
        shared = EncodedOnce(pipeline, counted(examples, decoded))
        shared.share()
        if process == 0:
            mine, alone = set(decoded), EncodedOnce(pipeline, examples)
            for place in range(0, len(examples), 5):
                found, expected = shared.part(place), alone.part(place)
                assert all(
                    torch.equal(one, other)
                    for name in expected
                    for one, other in zip(found[name], expected[name], strict=True)
                    if one is not None
                )
            torch.save((len(mine), len(decoded)), Path(folder) / "decoded.pt")


@pytest.mark.parametrize(("most_bytes", "mine", "whole"), [(2**30, 13, 13), (0, 5, 23)])
def test_processes_share_the_encoding(
    pipeline: Pipeline, examples: list[Example], tmp_path: Path, most_bytes: int, mine: int, whole: int
) -> None:
    """Guards against parts of the other process that are encoded again, lost, or given to the wrong examples."""
    pipeline.save(tmp_path / "run", examples[0], {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, args=(port, str(tmp_path / "run"), most_bytes), nprocs=2)
    assert torch.load(tmp_path / "run" / "decoded.pt") == (mine, whole)
