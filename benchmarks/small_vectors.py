"""What shorter vectors keep of a run's search: `python benchmarks/small_vectors.py RUN DATA [--json FILE]`.

Photos of a validation split and their captions, encoded once. Each row is an index of the photos, searched by every
caption: bytes of a vector in memory, recall@10, its share of that of float32, and the paired difference with interval.
"first k" compares the first k coordinates and scores `PROPOSED` photos again with whole vectors; "alone" does not.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

import chiasm
from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.core.types import IMAGE
from chiasm.data.files import of_files
from chiasm.evaluate.measure import open_prepared
from chiasm.metrics.paired import paired_difference
from chiasm.pipeline.batching import input_values
from chiasm.serve.index import codes
from chiasm.serve.index.header import FORMAT, Header
from chiasm.serve.index.sqlite import SqliteStore
from chiasm.serve.index.store import Change, Entry

K = 10
PROPOSED = (20, 50, 100)
"""Candidates that are scored again."""
Found = list[list[int]]


def vectors_of(run: str, data: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of n photos and m captions, and the photo of each caption."""
    pipeline = chiasm.load(run).pipeline
    pipeline.config = replace(pipeline.config, data=of_files(pipeline.config.data, data))
    examples, _ = open_prepared(pipeline, split, Console(stderr=True))
    space, model, images = pipeline.shared_space(), pipeline.model, list[np.ndarray]()
    for start in range(0, len(examples), 128):
        values = input_values(examples[start : start + 128], pipeline.config.model, 0, pipeline.resizing)
        images.append(space.embed_images(model, {IMAGE: pipeline.encode(values)[IMAGE]}))
    captions = [(number, one.text) for number, example in enumerate(examples) for one in example.captions]
    texts = space.embed_in_parts(model, pipeline.codec, [text for _, text in captions])
    return np.concatenate(images), texts, np.array([number for number, _ in captions])


def stored(kind: str, images: np.ndarray, texts: np.ndarray, proposed: int) -> Found:
    """Photos that an index of this kind finds for each caption."""
    codes.PROPOSED, codes.FEWEST_PROPOSED = 1, proposed
    store = SqliteStore(None)
    store.write_header(Header(FORMAT, "", str(images.shape[1]), "", "", "fp32", kind))
    store.apply(Change(put=[Entry(f"/{row}", str(row), 1, "s", vector) for row, vector in enumerate(images)]))
    found = [[number - 1 for number, _ in pairs] for pairs in store.nearest(texts, K)]
    store.close()
    return found


def first(width: int, images: np.ndarray, texts: np.ndarray, proposed: int) -> Found:
    """Photos by the first `width` coordinates, the nearest `proposed` of which are compared by all; 0 compares none."""
    short = [rows[:, :width] / np.linalg.norm(rows[:, :width], axis=1, keepdims=True) for rows in (images, texts)]
    order = np.argsort(-(short[1] @ short[0].T), axis=1, kind="stable")
    if not proposed:
        return order[:, :K].tolist()
    kept = order[:, :proposed]
    cosines = (images[kept] * texts[:, None]).sum(-1)
    return np.take_along_axis(kept, np.argsort(-cosines, axis=1, kind="stable"), 1)[:, :K].tolist()


def main() -> None:
    """Print the table and write --json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("run")
    options.add_argument("data")
    options.add_argument("--split", default="val")
    options.add_argument("--widths", default="256,128,64,32")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    images, texts, of = vectors_of(given.run, given.data, given.split)
    whole = images.shape[1]
    rows: dict[str, tuple[float, Callable[[], Found]]] = {
        "float32": (4 * whole, lambda: stored("float32", images, texts, K)),
        "int8": (whole, lambda: stored("int8", images, texts, K)),
    }
    for proposed in PROPOSED:
        bits = 8 * -(-whole // 64)
        rows[f"binary, {proposed} again"] = (bits, lambda n=proposed: stored("binary", images, texts, n))  # type: ignore[misc]
    for width in map(int, given.widths.split(",")):
        rows[f"first {width}, alone"] = (4 * width, lambda w=width: first(w, images, texts, 0))  # type: ignore[misc]
        rows[f"first {width}, 50 again"] = (4 * width, lambda w=width: first(w, images, texts, 50))  # type: ignore[misc]
    hits: dict[str, np.ndarray] = {}
    result = {}
    sys.stdout.write(f"{len(images)} photos, {len(texts)} captions, vectors of {whole} numbers\n")
    for name, (size, find) in rows.items():
        hits[name] = np.array([float(photo in found) for photo, found in zip(of, find(), strict=True)])
        recall, base = hits[name].mean(), hits["float32"]
        difference = paired_difference(hits[name], base, of)
        kept = recall / base.mean()
        result[name] = {
            "bytes": size,
            "times_less": 4 * whole / size,
            "text_to_image_R@10": float(recall),
            "kept": float(kept),
            "difference": difference.difference,
            "low": difference.low,
            "high": difference.high,
        }
        ends = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
        sys.stdout.write(
            f"{name:<20} {size:6.0f} bytes, 1/{4 * whole / size:<5.4g} R@10 {recall:.4f}, {100 * kept:6.2f} % kept, "
            f"{100 * difference.difference:+.2f} points ({ends})\n"
        )
    if given.json:
        write_json(given.json, {"n": len(texts), "photos": len(images), "rows": result, "environment": environment()})


if __name__ == "__main__":
    main()
