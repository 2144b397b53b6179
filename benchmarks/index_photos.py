"""An index of real photos: `python benchmarks/index_photos.py RUN DATA [--split S] [--photos N] [--rounds R]`.

1. Rate: the index's build, database and all, against the engine's `encode_image` on the same files; nothing cached.
2. text_to_image_R@1 of every caption through the index against `evaluate`'s of the same examples.
3. The same with re-ranking by the fusion model, where the run can, with the latency of both (a sample of queries): of
   the first searches, which read every photo, and of the last, which find most of them in memory.

RUN is a run folder or the word starter, DATA what `chiasm evaluate --data` takes. Prints; exits with 1 where the rate
is below 0.9 or the recalls differ.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import chiasm
from chiasm.core.config import of_kind
from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.serve.engine import Model
from chiasm.serve.index import Index, make_index
from chiasm.serve.index.rerank import reranker

LEAST_SHARE, RERANKED, FIRST = 0.9, 200, 10


def rates(model: Model, paths: list[Path], rounds: int) -> float:
    """Print pictures a second of the engine and of a build, in turn; return the median ratio."""
    ratios, engine, build = list[float](), list[float](), list[float]()
    model.encode_image(paths[:32])
    for _ in range(rounds):
        start = time.perf_counter()
        model.encode_image(paths)
        middle = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            index, _ = make_index(Path(place) / "index", paths, model)
            end = time.perf_counter()
            index.close()
        engine.append(len(paths) / (middle - start))
        build.append(len(paths) / (end - middle))
        ratios.append(build[-1] / engine[-1])
    ratio = statistics.median(ratios)
    medians = f"engine {statistics.median(engine):.1f}, index {statistics.median(build):.1f} pictures/s"
    print(f"rate: {medians}, ratio {ratio:.3f} (median of {rounds})")
    return ratio


def recall(
    index: Index, examples: list[Example], queries: list[tuple[int, str]], rerank: bool
) -> tuple[float, list[float]]:
    """R@1 of queries (example, words), and the milliseconds of each search."""
    hits, times = 0, list[float]()
    for of, words in queries:
        start = time.perf_counter()
        found = index.search(words, count=1, rerank=rerank)
        times.append((time.perf_counter() - start) * 1000)
        hits += bool(found) and found[0].path == str(Path(examples[of].inputs["image"].path).absolute())
    return hits / len(queries), times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    typed = parser.parse_args()
    model = chiasm.load(typed.run)
    config = replace(
        of_kind(model.pipeline.config.data, FilesConfig, "source"), path=typed.data, format="auto", images=""
    )
    dataset = open_dataset(config, typed.split, 0)
    examples = [dataset.example(number) for number in range(min(typed.photos, len(dataset)))]
    paths = [Path(example.inputs["image"].path) for example in examples]
    with tempfile.TemporaryDirectory() as place:
        os.environ["CHIASM_CACHE"] = str(Path(place) / "empty")
        ratio = rates(model, paths, typed.rounds)
        index, _ = make_index(Path(place) / "index", paths, model)
        theirs = evaluate(model.pipeline, examples).scores["text_to_image_R@1"]
        queries = [(of, caption.text) for of, example in enumerate(examples) for caption in example.captions]
        ours, _ = recall(index, examples, queries, rerank=False)
        print(f"text_to_image_R@1: evaluate {theirs.value:.4f} (n={theirs.n}), through the index {ours:.4f}")
        try:
            reranker(model)
        except InputError as error:
            print(f"re-ranking: {error.given}")
        else:
            some = [queries[int(one)] for one in np.linspace(0, len(queries) - 1, min(RERANKED, len(queries)))]
            for rerank in (False, True):
                value, times = recall(index, examples, some, rerank)
                said = "after" if rerank else "before"
                first, last = statistics.median(times[:FIRST]), statistics.median(times[len(times) // 2 :])
                told = f"{first:.1f} ms a search at first, {last:.1f} ms in the second half"
                print(f"re-ranking, {said}: R@1 {value:.4f} (n={len(some)}), {told}")
        index.close()
    sys.exit(1 if ratio < LEAST_SHARE or abs(ours - theirs.value) > 1e-9 else 0)


if __name__ == "__main__":
    main()
