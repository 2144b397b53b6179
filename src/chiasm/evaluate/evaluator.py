"""Evaluate a pipeline on a split: predictions of every task, and scores with intervals.

Inputs are encoded once for all tasks. Further passes with shuffled images, without images and without texts measure how
much of a score depends on each input.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from chiasm.core.random import counter_rng
from chiasm.core.types import IMAGE, Encoded, Example
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.scoring import Context, Outcome, Similarity, View

GREY = 127
"""Pixel value of the uniform image in the view without images."""
Report = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


def derangement(count: int, seed: int) -> list[int]:
    """Return a permutation of `count` (at least 2) without fixed points, which gives each example another's image."""
    cycle = counter_rng("blind", seed, count).permutation(count)
    order = np.empty(count, dtype=np.int64)
    order[cycle] = np.roll(cycle, 1)
    return [int(number) for number in order]


def evaluate(
    pipeline: Pipeline,
    examples: Sequence[Example],
    view: View = "seen",
    report: Report | None = None,
    wanted: str = "",
    encoded: EncodedOnce | None = None,
) -> Outcome:
    """Run every task of the pipeline over the examples and score it.

    Args:
        pipeline: a trained model, in evaluation mode.
        examples: one split.
        view: "seen" as it is; "shuffled" gives every example the image of another one; "no_picture" a uniform grey
            one; "no_text" empties questions and sentences. A view leaves out a task that has no
            query in it.
        report: called after each part.
        wanted: the one metric that is needed (`Context.wanted`); "" for all.
        encoded: of these very examples, shared with other passes; None encodes them for this one.
    """
    found = evaluate_tasks(pipeline, examples, view, report, wanted=wanted, encoded=encoded)
    return Outcome.joined([*found.values()])


def evaluate_tasks(
    pipeline: Pipeline,
    examples: Sequence[Example],
    view: View = "seen",
    report: Report | None = None,
    is_calibrating: bool = False,
    wanted: str = "",
    encoded: EncodedOnce | None = None,
) -> dict[str, Outcome]:
    """As `evaluate`, each task's outcome by itself; `is_calibrating` keeps what calibration is fitted on."""
    config = pipeline.config
    context = Context(
        model=pipeline.model,
        codec=pipeline.codec,
        examples=examples,
        view=view,
        seed=config.seed,
        languages=config.data.languages,
        label_prompts=config.data.label_prompts,
        is_calibrating=is_calibrating,
        has_classes=any(task.needs == "labels" for task in pipeline.tasks.values()),
        similarity=_similarity(pipeline),
        wanted=wanted,
    )
    made = {name: task.scorer(context) for name, task in pipeline.tasks.items()}
    scorers = {name: scorer for name, scorer in made.items() if scorer is not None}
    order = derangement(len(examples), config.seed) if view == "shuffled" else None
    nothing = _grey(pipeline) if view == "no_picture" else None
    known = encoded or EncodedOnce(pipeline, examples)
    assert known.examples is examples, "what is encoded are these very examples"
    for start in range(0, len(examples), known.chunk):
        part = examples[start : start + known.chunk]
        if nothing is not None:
            shown = _repeated(nothing, len(part))
        else:
            shown = known.part(start) if order is None else known.rows(order[start : start + known.chunk])
        for scorer in scorers.values():
            scorer.add(start, part, shown)
        if report is not None:
            report(min(start + known.chunk, len(examples)), len(examples))
    return {name: scorer.finish() for name, scorer in scorers.items()}


def _grey(pipeline: Pipeline) -> Encoded:
    """One row: a uniform grey image; further inputs are absent."""
    grey = np.full((*pipeline.config.model.image.shape_px, 3), GREY, dtype=np.uint8)
    return {IMAGE: pipeline.encode_pixels(stack_images([grey], pipeline.resizing))}


def _repeated(encoded: Encoded, count: int) -> Encoded:
    """The one row of each input, `count` times."""
    return {
        name: tokens.rows(torch.zeros(count, dtype=torch.long, device=tokens.pooled.device))
        for name, tokens in encoded.items()
    }


def _similarity(pipeline: Pipeline) -> Similarity | None:
    """Cosines of the space that images and texts share; None where no task has one."""
    space = pipeline.space
    return None if space is None else partial(space.similarity, pipeline.model, pipeline.codec)
