"""Seconds to draw a scene with the key-value cache and without, interleaved; both draw the same tokens.

Command: python benchmarks/drawing.py [RUN] [--images N] [--rounds N]

Without RUN the model has the sizes of the recipe dalle and no training: then no token is guessed right, and few images
take longer than a trained model's (see `chiasm.models.image_sampling`).
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from chiasm.core.device import environment, keep_freed_memory, pick_device
from chiasm.data.dataset import examples_of
from chiasm.data.opening import open_dataset
from chiasm.models.image_sampling import SamplingConfig, sample
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.drawing import Drawing
from chiasm.tasks.drawing_requests import DrawRequest, plan_of, prior_of
from timing import compare, show

VOCABULARY_EXAMPLES = 512


def pipeline_of(run: Path | None) -> Pipeline:
    """A trained run, or an untrained model of the recipe's sizes."""
    if run is not None:
        return Pipeline.load(run, pick_device())
    recipe = find_recipe("dalle")
    model = replace(recipe.model, image=replace(recipe.model.image, frozen=True))
    config = replace(recipe, model=model, stages={})
    data = replace(config.data, train_pictures=VOCABULARY_EXAMPLES)
    return Pipeline.build(config, examples_of(open_dataset(data, "train", 0)), pick_device())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=1, help="drawn at once")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    keep_freed_memory()
    pipeline = pipeline_of(given.run)
    task: Drawing = pipeline.task(Drawing)
    model, prior = pipeline.model, prior_of(pipeline.model, task.name)
    caption = "a large red circle top left, a small blue square center, a small green circle bottom right"
    plan = plan_of(model, pipeline.codec, prior, [DrawRequest(caption, seed) for seed in range(given.images)])
    config = SamplingConfig(guidance=2.0)
    cached, uncached = (
        partial(sample, prior, model.tower, plan, config, is_cached=is_cached) for is_cached in (True, False)
    )
    passes: list[int] = []
    drawn = sample(prior, model.tower, plan, config, lambda place, ids: passes.append(place))
    assert torch.equal(drawn.ids, uncached().ids), "the cache changes a token"
    found = compare({"with cache": cached, "without": uncached}, given.rounds)
    facts = environment()
    print(
        f"{facts['cpu']}, {torch.get_num_threads()} threads, {facts['device']}; {prior.image_length} tokens an image "
        f"in {len(passes)} passes"
    )
    show(f"{given.images} images at once, guidance on", found)
    ratio, one_s = found["without"][1], found["with cache"][0] / 1000 / given.images
    print(f"with the cache {ratio:.1f} times as fast; {one_s:.3f} s an image")


if __name__ == "__main__":
    main()
