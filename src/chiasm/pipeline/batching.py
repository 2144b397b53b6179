"""Examples -> Batch: pictures stacked once, and each task's own fields beside them."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.random import counter_seed
from chiasm.core.resizing import Resizing
from chiasm.core.types import Batch, Example, Tokens
from chiasm.data.resizing import resize
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks.base import Task
from chiasm.tasks.codec import Codec

S = TypeVar("S")
T = TypeVar("T")
MOST_WORKERS = 8
"""Threads beside a GPU where `data.workers` chooses."""
FEATURES = "image_features"
"""Key in `Example.inputs` of the `Features` that stand for the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a frozen image tower made of one picture, as the cache of `pipeline.feature_cache` keeps it.

    Attributes:
        pooled: float32 [d], one vector for the picture.
        values: float16 [l, c], its grid of tokens; None where the run does not use the grid (`model.image.grid`).
    """

    pooled: np.ndarray
    values: np.ndarray | None = None


def stack_pictures(pictures: Sequence[np.ndarray], resizing: Resizing) -> Tensor:
    """uint8 [h, w, 3] images of any size -> uint8 [n, c, height_px, width_px]. The one preprocessing of the project.

    `Pipeline.resizing` is what its image encoder was trained with; normalisation is the encoder's first step.
    """
    return stack_resized([resize(picture, resizing) for picture in pictures])


def stack_resized(resized: Sequence[np.ndarray]) -> Tensor:
    """uint8 [h, w, c] pictures of one size -> uint8 [n, c, h, w]."""
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def to_model_range(image: Tensor | Tokens, dtype: torch.dtype) -> Tensor | Tokens:
    """uint8 pictures -> numbers in [-1, 1]; what a frozen tower made of them only changes its type."""
    if isinstance(image, Tokens):
        return Tokens(image.values.to(dtype), image.is_real, image.pooled.to(dtype))
    if image.dtype != torch.uint8:
        return image.to(dtype)
    return image.to(dtype) / 127.5 - 1


def image_tensor(examples: Sequence[Example], resizing: Resizing, workers: int) -> Tensor | Tokens:
    """Pictures of the examples as `stack_pictures` makes them, or `stack_features` where every example has them.

    Args:
        examples: with a picture each.
        resizing: of the pipeline.
        workers: `data.workers`; the result does not depend on it.
    """
    if examples and all(FEATURES in example.inputs for example in examples):
        return stack_features([example.inputs[FEATURES] for example in examples])
    return stack_resized(in_threads(lambda one: resize(one.inputs["image"].load(), resizing), examples, workers))


def in_threads(work: Callable[[S], T], items: Sequence[S], workers: int) -> list[T]:
    """Results of `work` on each item, such as decoding an image, in order; `workers` threads (`data.workers`).

    Pillow lets other threads run while it decodes and resizes.
    """
    threads = workers or (min(MOST_WORKERS, os.cpu_count() or 1) if torch.cuda.is_available() else 1)
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        return list(pool.map(work, items))


def stack_features(features: Sequence[Features]) -> Tokens:
    """Features of n pictures -> Tokens, `pooled` float32 [n, d].

    `values` are the grids, float16 [n, l, c]; without grids the vector is the picture's one token, float32 [n, 1, d].
    """
    pooled = torch.from_numpy(np.stack([one.pooled for one in features]))
    grids = [one.values for one in features if one.values is not None]
    assert len(grids) in (0, len(features)), "some pictures of the batch have a grid, and some have none"
    values = torch.from_numpy(np.stack(grids)) if grids else pooled[:, None]
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool), pooled)


def make_batch(
    examples: Sequence[Example],
    tasks: Mapping[str, Task[Any]],
    codec: Codec,
    run: PipelineConfig,
    epoch: int,
    resizing: Resizing | None = None,
) -> Batch:
    """Collate one training batch; who makes many gives `resizing`, that of the image encoder, which is read once."""
    if resizing is None:
        resizing = run.model.image.preprocessing().resizing
    # Hashes and not running numbers, so that groups mean the same in every process of a distributed step.
    group = [counter_seed("group", example.group or example.id) for example in examples]
    return Batch(
        [example.id for example in examples],
        image_tensor(examples, resizing, run.data.workers),
        torch.tensor(group, dtype=torch.long),
        {name: task.collate(examples, codec, run.seed, epoch) for name, task in tasks.items()},
    )
