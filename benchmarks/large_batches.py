"""A step of a large contrastive batch in little memory: ViT-B/32, random weights, real captions.

Command: python benchmarks/large_batches.py [--batch 8192] [--parts 128] [--size 32] [--layers 12] [--predict]

Each measurement runs in a process of its own, whose largest resident memory counts: towers with the sizes of CLIP
ViT-B/32 (151 million parameters), AdamW, captions of Flickr8k (CHIASM_DATA), images of random pixels. `--size` is the
side of the images in pixels; 224 is what CLIP takes, and 32 gives the image tower one patch, which leaves weights,
embeddings, loss and the text tower as they are and makes a step of 8,192 take minutes rather than an hour.
`--layers` is the depth of both towers, 12 in ViT-B/32. Adds to a dated JSON file in benchmarks/results. `--predict`
takes no step and prints what is predicted of one.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from chiasm.core.device import environment, keep_freed_memory, peak_memory_bytes
from chiasm.core.files import read_json, write_json
from chiasm.core.types import Batch, Caption, Example, ImageRef
from chiasm.data.dataset import ListDataset
from chiasm.data.ledger import Ledger
from chiasm.pipeline.batching import make_batch
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.loader import Loader
from chiasm.train.memory import StepMemory, predict_memory
from chiasm.train.trainer import Hooks, Trainer
from clip_towers import RESULTS, captions_of_flickr8k, clip_run, write_clip

LONGEST_S = 4 * 3600


def examples(count: int, size_px: int) -> list[Example]:
    """Captions of Flickr8k, each with an image of random pixels that is made when it is read."""

    def image(number: int) -> ImageRef:
        def load() -> np.ndarray:
            return np.random.default_rng(number).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)

        return ImageRef(load, lambda: str(number))

    said = captions_of_flickr8k(count)
    return [Example(str(row), {"image": image(row)}, (Caption(text, "en"),)) for row, text in enumerate(said)]


def measure(batch: int, parts: int, size_px: int, layers: int, takes_step: bool = True) -> dict[str, float]:
    """One step in this process: predicted and real memory, seconds, and the loss."""
    keep_freed_memory()
    started_bytes = peak_memory_bytes()
    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder), size_px, layers)
        run = clip_run(Path(folder), batch_size=batch, accumulate=parts)
        dataset = ListDataset("train", examples(batch, size_px), Ledger())
        pipeline = Pipeline.build(run, dataset.examples[:8], torch.device("cpu"))
        loader = Loader(dataset, pipeline.tasks, pipeline.codec, run)

        def few(count: int) -> Batch:
            return make_batch(dataset.examples[:count], pipeline.tasks, pipeline.codec, run, 0, loader.resizing)

        trainer = Trainer(pipeline, loader, Path(), Hooks(dict, dict, dict), "")
        trainer.start(None, "fp32", "")
        parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
        predicted = predict_memory(trainer, few)
        if not takes_step:
            step_bytes = predicted_step(predicted, parameters)
            return {"parameters": parameters, "predicted_bytes": step_bytes, "libraries_bytes": started_bytes}
        start = time.perf_counter()
        row = trainer.step(next(loader.ahead(0, 2)))
        seconds = time.perf_counter() - start
    return {
        "batch": batch,
        "parts": parts,
        "size_px": size_px,
        "layers": layers,
        "parameters": parameters,
        "predicted_bytes": predicted_step(predicted, parameters),
        "predicted_of_a_run_bytes": predicted.total_bytes,
        "libraries_bytes": started_bytes,
        "peak_bytes": peak_memory_bytes(),
        "step_s": seconds,
        "loss": row["loss"],
    }


def predicted_step(predicted: StepMemory, parameters: int) -> int:
    """Of one step alone: without the copy of the best weights, which the first validation makes, and a checkpoint."""
    return replace(predicted, checkpoint_bytes=0).total_bytes - 4 * parameters


def apart(*sizes: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    named = zip(("--batch", "--parts", "--size", "--layers"), map(str, sizes), strict=True)
    words = [sys.executable, __file__, "--one", *(word for pair in named for word in pair)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=LONGEST_S, check=True, env=os.environ)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def keep(given: argparse.Namespace, found: dict[str, float]) -> None:
    """Add a measurement, also in GiB, to today's file."""
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}-large_batches.json"
    stored = read_json(path, "results") if path.is_file() else {}
    name = f"{given.batch} of {given.size} px in {given.parts} parts, {given.layers} layers"
    gib = {key.replace("_bytes", "_gib"): round(size / 2**30, 2) for key, size in found.items() if "_bytes" in key}
    write_json(path, stored | {name: found | gib, "environment": environment()})


def main() -> None:
    """Print predicted and real memory of one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--parts", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    given = parser.parse_args()
    sizes = given.batch, given.parts, given.size, given.layers
    if given.one:
        print(json.dumps(measure(*sizes)))
        return
    if given.predict:
        told = measure(*sizes, takes_step=False)
        print(f"predicted of a step: {told['predicted_bytes'] / 2**30:.2f} GiB, {told['parameters']:,} parameters")
        keep(given, told)
        return
    found = apart(*sizes)
    predicted, libraries, peak = (found[name] / 2**30 for name in ("predicted_bytes", "libraries_bytes", "peak_bytes"))
    print(
        f"batch {given.batch:,} of {given.size} px in {given.parts} parts, {given.layers} layers a tower "
        f"({found['parameters']:,.0f} parameters): {peak:.2f} GiB at most"
    )
    print(f"  predicted {predicted:.2f} GiB beside {libraries:.2f} GiB of libraries; {found['step_s']:.0f} s a step")
    run = found["predicted_of_a_run_bytes"] / 2**30
    print(f"  predicted of a run, with its best weights and a checkpoint while it is written: {run:.2f} GiB")
    keep(given, found)


if __name__ == "__main__":
    main()
