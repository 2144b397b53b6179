"""The ways to compress a run without training it again: a table of functions that change a pipeline in place."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from chiasm.core.errors import InputError, nearest
from chiasm.core.random import counter_rng
from chiasm.core.types import Example
from chiasm.data.modalities.image import images_of
from chiasm.data.opening import open_dataset
from chiasm.models.packing import Packing, round_weights
from chiasm.models.pruning import Kind, choose, entries, kind_of, prunable, prune, taylor_scores
from chiasm.models.static_int8 import Calibratable, calibrate
from chiasm.pipeline.batching import make_batch, stack_images, to_model_range
from chiasm.pipeline.pipeline import Pipeline

SCORED, AT_ONCE = 256, 16
"""Training examples that parts are ranked by, and those of one batch."""
CALIBRATED = 256
"""Training examples whose images tell ranges for convolutions in eight bits."""
LEAST_COSINE = 0.9
"""Of a run in eight bits: the gate measures what they cost in the score, so this refuses only what is broken."""


def _rounded(pipeline: Pipeline, packing: Packing) -> None:
    round_weights(pipeline.model, pipeline.saved_names(), packing)
    pipeline.packing = packing
    if packing == "int8":  # bf16 is slower than fp32 on some machines that have it: `auto` measures
        tower = pipeline.model.image_encoder
        if isinstance(tower, Calibratable):
            calibrate(tower, _calibration_images(pipeline))
        model = replace(pipeline.config.model, execution="int8", least_cosine=LEAST_COSINE)
        pipeline.config = replace(pipeline.config, model=model)


def _pruned(pipeline: Pipeline, share: float, kinds: tuple[Kind, ...] = ("heads", "units")) -> None:
    """Remove the share of the parts of each kind that matters least to the loss on training examples.

    Raises:
        InputError: the model has no block of this package whose heads or units could be removed.
    """
    examples, model = training_examples(pipeline, SCORED), pipeline.model
    batches = [examples[start : start + AT_ONCE] for start in range(0, len(examples), AT_ONCE)]
    scores = taylor_scores(model, [partial(_loss, pipeline, some) for some in batches])
    kept: dict[str, Tensor] = {}
    for kind in kinds:
        kept |= choose({name: score for name, score in scores.items() if kind_of(model, name) == kind}, share)
    if not kept:
        raise InputError(
            f"a model with image tower {pipeline.config.model.image.kind!r} and text tower "
            f"{pipeline.config.model.text.kind!r}, which has no {' or '.join(kinds)} to remove",
            "a model with trained transformer blocks of chiasm's own",
            "give another --to",
        )
    prune(model, kept)
    if "blocks" in kinds:  # Blocks have new numbers, so every size is stated anew.
        names = sorted(prunable(model))
    else:
        names = sorted({*kept, *(entry.rpartition("=")[0] for entry in pipeline.config.model.pruned)})
    pruned = replace(pipeline.config.model, pruned=entries(model, names))
    pipeline.config = replace(pipeline.config, model=pruned)


VARIANTS: dict[str, Callable[[Pipeline], None]] = {
    "int8": partial(_rounded, packing="int8"),
    "bf16": partial(_rounded, packing="bf16"),
    "pruned25": partial(_pruned, share=0.25),
    "pruned50": partial(_pruned, share=0.5),
    "layers25": partial(_pruned, share=0.25, kinds=("blocks",)),
    "layers50": partial(_pruned, share=0.5, kinds=("blocks",)),
}
"""Name of a variant -> what it does to a pipeline. Weights of installed packages stay. "+" joins several."""


def steps_of(name: str) -> list[Callable[[Pipeline], None]]:
    """What the word of `--to` does, in order: "pruned50+int8" prunes, then rounds.

    Raises:
        InputError: there is no such variant.
    """
    for word in name.split("+"):
        if word not in VARIANTS:
            allowed = " or ".join([*VARIANTS, "several joined by +"])
            raise InputError(f"--to {name}{nearest(word, VARIANTS)}", allowed, "choose one, such as pruned50+int8")
    return [VARIANTS[word] for word in name.split("+")]


def training_examples(pipeline: Pipeline, count: int) -> list[Example]:
    """At most `count` examples of the training split of the pipeline's data, drawn by its seed."""
    dataset = open_dataset(pipeline.config.data, "train", pipeline.config.seed)
    order = counter_rng("compress", pipeline.config.seed).permutation(len(dataset))[:count]
    return [dataset.example(int(number)) for number in order]


def _calibration_images(pipeline: Pipeline) -> Tensor:
    """Training images that ranges are measured on, float32 [n, 3, h, w] in [-1, 1].

    Raises:
        InputError: the data have no image.
    """
    images = [one for example in training_examples(pipeline, CALIBRATED) for one in images_of(example)[:1]]
    if not images:
        raise InputError("training data without an image", "images to measure ranges of eight bits on", "give --data")
    pixels = stack_images([image.load() for image in images], pipeline.resizing)
    return cast(Tensor, to_model_range(pixels.to(pipeline.device), torch.float32))


def _loss(pipeline: Pipeline, examples: Sequence[Example]) -> Tensor:
    """The weighted sum of the tasks' losses on a batch, in evaluation mode."""
    batch = make_batch(examples, pipeline.tasks, pipeline.codec, pipeline.config, 0, pipeline.resizing)
    batch = batch.to(pipeline.device)
    encoded = pipeline.model.encode({name: to_model_range(one, torch.float32) for name, one in batch.inputs.items()})
    losses = [
        task.config.weight * task.loss(pipeline.model, encoded, batch)["loss"] for task in pipeline.tasks.values()
    ]
    return torch.stack(losses).sum()
