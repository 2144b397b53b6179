"""One model on several engines: the same images and texts, rounds interleaved, medians, accuracy beside speed."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.dataset import texts_of
from chiasm.data.modalities.image import images_of
from chiasm.data.png import as_png
from chiasm.evaluate.speed.engines import chiasm_engine, decoded, other_engines, silent
from chiasm.evaluate.speed.limits import machine_limits, operations_of
from chiasm.pipeline.pipeline import Pipeline

BATCH = 32
ROUNDS = 5
BASELINES = ("transformers fp32", "chiasm fp32")
"""The first of these that ran is what ratios are to."""
WORKS = {
    "images": "images a second, decoded and resized before",
    "files": "image files a second, decoding and resizing included",
    "texts": "texts a second",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One engine at one work.

    Attributes:
        engine: its name.
        per_s: rows a second, median over rounds.
        ratio: median over rounds of its speed over the baseline's in the same round.
        cosine: mean and least cosine of its vectors to those of chiasm in fp32.
    """

    engine: str
    per_s: float
    ratio: float
    cosine: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """What `compare` found.

    Attributes:
        limits: as `limits.machine_limits`.
        operations: "images" and "texts" -> operations of one row.
        works: key of `WORKS` -> engines, fastest first.
        baseline: what ratios are to.
        absent: engine -> why it is not there.
        rows: images or texts of a round.
        rounds: number of rounds.
    """

    limits: Mapping[str, float]
    operations: Mapping[str, float]
    works: Mapping[str, Sequence[Line]]
    baseline: str
    absent: Mapping[str, str]
    rows: int
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def most_per_s(self, work: str, name: str) -> float:
        """Rows a second that the products alone allow in a number format: "fp32", "bf16" or "int8"."""
        asked = self.operations["texts" if work == "texts" else "images"]
        return self.limits[f"{name}_operations_per_s"] / asked if asked else 0.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same rows for every engine."""

    contents: list[bytes]
    texts: list[str]
    example: Example


def inputs_of(examples: Sequence[Example], rows: int) -> Inputs:
    """Image files and texts of the first examples that have them, repeated where there are fewer than `rows`.

    Raises:
        InputError: no image, or no text.
    """
    shown = [one for one in examples[: 8 * rows] if images_of(one)]
    texts = [text for one in examples[: 8 * rows] for text in texts_of([one])]
    if not shown or not texts:
        missing = "image" if not shown else "caption or question"
        raise InputError(f"data without {missing}", "images with captions or questions", "give other --data")
    chosen = [shown[number % len(shown)] for number in range(rows)]
    return Inputs(list(map(_content, chosen)), [texts[number % len(texts)] for number in range(rows)], shown[0])


def compare(
    pipeline: Pipeline,
    examples: Sequence[Example],
    rows: int = BATCH,
    rounds: int = ROUNDS,
    note: Callable[[str], None] = lambda text: None,
    plans: Mapping[str, Pipeline] | None = None,
) -> Bench:
    """Measure the machine, the pipeline, and every other engine that takes its weights.

    Args:
        pipeline: on the CPU, with a space shared by images and texts.
        examples: of the user's data.
        rows: images, and texts, that are given at once.
        rounds: each engine once a round.
        note: called with what is being done.
        plans: the same model under other execution plans, by the names of their lines.

    Raises:
        InputError: the pipeline has no shared space, or the data no images or texts.
    """
    own = chiasm_engine(pipeline)
    inputs = inputs_of(examples, rows)
    note("limits of the machine")
    limits = machine_limits(inputs.contents)
    pixels = decoded(pipeline, inputs.contents)
    assert own.images is not None, "chiasm takes pixels"
    see = own.images
    operations = {
        "images": operations_of(lambda: see(pixels)) / rows,
        "texts": operations_of(lambda: own.texts(inputs.texts)) / rows,
    }
    note("exporting the model to other engines")
    with tempfile.TemporaryDirectory() as place, silent():
        others, absent = other_engines(pipeline, inputs.example, Path(place))
        engines = [own, *(chiasm_engine(one, name) for name, one in (plans or {}).items()), *others]
        baseline = next(name for name in BASELINES if any(one.name == name for one in engines))
        calls: dict[str, dict[str, Callable[[], np.ndarray]]] = {
            "images": {one.name: partial(one.images, pixels) for one in engines if one.images is not None},
            "files": {one.name: partial(one.files, inputs.contents) for one in engines},
            "texts": {one.name: partial(one.texts, inputs.texts) for one in engines},
        }
        works = {}
        for work, called in calls.items():
            note(WORKS[work])
            works[work] = timed(called, rows, rounds, baseline, absent)
    return Bench(limits, operations, works, baseline, absent, rows, rounds)


def timed(
    calls: Mapping[str, Callable[[], np.ndarray]], rows: int, rounds: int, baseline: str, absent: dict[str, str]
) -> list[Line]:
    """Each engine once a round, in turn; fastest first. One that fails in its first call is added to `absent`."""
    vectors: dict[str, np.ndarray] = {}
    for name, call in calls.items():
        try:
            vectors[name] = call()
        except Exception as error:  # of many types, by the engines
            if name in BASELINES:
                raise
            absent[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    taken: dict[str, list[float]] = {name: [] for name in vectors}
    for _ in range(rounds):
        for name, own in taken.items():
            start = time.perf_counter()
            calls[name]()
            own.append(time.perf_counter() - start)
    first, truth = taken[baseline], vectors["chiasm fp32"]
    lines = [
        Line(
            name,
            rows / statistics.median(own),
            statistics.median(base / one for base, one in zip(first, own, strict=True)),
            cosines(vectors[name], truth),
        )
        for name, own in taken.items()
    ]
    return sorted(lines, key=lambda line: -line.per_s)


def cosines(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean and least cosine of rows to the rows of another matrix of the same shape."""
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, truth))
    each = (one * other).sum(1)
    return float(each.mean()), float(each.min())


def _content(example: Example) -> bytes:
    """The file of an example's first image, or the image as PNG where it comes of no file."""
    image = images_of(example)[0]
    return as_png(image.load()) if image.path is None else Path(image.path).read_bytes()
