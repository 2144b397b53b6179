"""A contrastive training step of CLIP ViT-B/32 from scratch: chiasm against transformers, on real photos and captions.

Command: python benchmarks/contrastive_step.py [--batch 16] [--rounds 3] [--cpu]

Forward, backward, clipping of the gradient and AdamW in float32 (one row of chiasm in bf16 with float32 weights beside
it, where the CPU has instructions for it), on the same photos and captions of Flickr8k
(CHIASM_DATA), which are decoded and tokenised before. transformers gets captions padded to 77 tokens, as CLIP was
trained. Rows with patch dropout compute a part of the patches (FLIP): they are another
training and stand apart. In turn in one process; medians of the ratios to the first row. `--cpu` counts CPU
seconds of one thread, for a machine that is busy with other programs. Writes a dated JSON file into benchmarks/results.
"""

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import transformers

from chiasm.core.device import environment, has_bf16, keep_freed_memory
from chiasm.core.files import write_json
from chiasm.data.dataset import ListDataset
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.models.encoders.hugging_face import normalised
from chiasm.models.patch_dropout import PatchDropout
from chiasm.pipeline.batching import to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.execution.replica import Replica
from chiasm.train.loader import Loader
from chiasm.train.trainer import Hooks, Trainer
from clip_towers import MOST_TOKENS, RESULTS, SEED, clip_run, write_clip
from timing import compare, show

DROPPED = (0.5, 0.75)
"""Shares of patches that FLIP drops."""
LEARNING_RATE = 1e-5


def chiasm_trainer(folder: Path, batch: int, precision: str = "fp32") -> Trainer:
    """A trainer whose towers can drop patches."""
    run = clip_run(folder, ("model.image.patch_dropout=0.5",), batch_size=batch, lr=LEARNING_RATE)
    whole = open_dataset(run.data, "train", SEED)
    dataset = ListDataset("train", [whole.example(row) for row in range(batch)], Ledger())
    pipeline = Pipeline.build(run, dataset.examples, torch.device("cpu"))
    trainer = Trainer(
        pipeline, Loader(dataset, pipeline.tasks, pipeline.codec, run), Path(), Hooks(dict, dict, dict), ""
    )
    trainer.start(None, precision, "")
    return trainer


def transformers_step(
    model: transformers.CLIPModel, pixels: torch.Tensor, words: dict[str, torch.Tensor]
) -> Callable[[], float]:
    """The step as transformers' own trainer takes it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step() -> float:
        loss = model(pixel_values=pixels, **words, return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def candidates(folder: Path, batch: int) -> dict[str, Callable[[], float]]:
    """Name -> one step; the first is the baseline. All see the same photos and captions."""
    model = write_clip(folder).train()
    trainer = chiasm_trainer(folder, batch)
    (ready,) = trainer.loader.batches(0)
    fields = ready.by_task["retrieval"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = zip(fields["text_ids"], fields["text_is_real"], strict=True)
    texts = [tokenizer.decode(ids[is_real], skip_special_tokens=True) for ids, is_real in rows]
    encoder = trainer.pipeline.model.image_encoder
    pixels = normalised(to_model_range(ready.inputs["image"], torch.float32), encoder.preprocessing)
    padded = tokenizer(texts, padding="max_length", max_length=MOST_TOKENS, truncation=True, return_tensors="pt")
    in_bf16 = chiasm_trainer(folder, batch, "bf16") if has_bf16(torch.device("cpu")) else None

    def ours(share: float, trainer: Trainer = trainer) -> Callable[[], float]:
        def step() -> float:
            execution = trainer.execution
            assert isinstance(execution, Replica)
            for module in execution.compute.model.modules():
                if isinstance(module, PatchDropout):
                    module.share = share or module.share
            trainer.train = replace(trainer.train, unmasked_share=0.0 if share else 1.0)
            row = trainer.step([ready])
            trainer.progress.step += 1
            return row["loss"]

        return step

    return {
        f"transformers, padded to {MOST_TOKENS}": transformers_step(model, pixels, dict(padded)),
        "chiasm": ours(0.0),
        **({"chiasm, bf16": ours(0.0, in_bf16)} if in_bf16 else {}),
        **{f"chiasm, {share:.0%} of patches dropped": ours(share) for share in DROPPED},
    }


def _note(step: Callable[[], float], losses: list[float]) -> None:
    losses.append(step())


def main() -> None:
    """Time the steps in turn and print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    if given.cpu:
        torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        steps = candidates(Path(folder), given.batch)
        losses: dict[str, list[float]] = {name: [] for name in steps}
        noted = {name: partial(_note, step, losses[name]) for name, step in steps.items()}
        found = compare(noted, given.rounds, time.process_time if given.cpu else time.perf_counter)
    first = {name: values[0] for name, values in losses.items()}
    print("loss of the first step: " + ", ".join(f"{name} {loss:.3f}" for name, loss in first.items()))
    seconds = "CPU time of 1 thread" if given.cpu else f"{torch.get_num_threads()} threads"
    show(f"a step of {given.batch} photos and captions, {seconds}", found)
    results = {
        name: {"milliseconds": milliseconds, "times_as_fast": 1 / ratio, "loss": first[name]}
        for name, (milliseconds, ratio) in found.items()
    }
    stored = {
        "batch": given.batch,
        "rounds": given.rounds,
        "cpu": given.cpu,
        "results": results,
        "environment": environment(),
    }
    write_json(RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}-contrastive_step.json", stored)


if __name__ == "__main__":
    main()
