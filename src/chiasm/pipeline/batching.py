"""Collate examples into a Batch: the inputs stacked once, and the fields of each task."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.resizing import Resizing
from chiasm.core.types import IMAGE, Batch, Example, InputValue, Stacked, Tokens
from chiasm.data.modalities import MODALITIES
from chiasm.data.modalities.base import Modality, references_of
from chiasm.models.config import ModelConfig
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks.base import Task
from chiasm.tasks.codec import Codec

S = TypeVar("S")
T = TypeVar("T")
MOST_WORKERS = 8
"""Threads beside a GPU where `data.workers` chooses."""
DECODERS = min(MOST_WORKERS, os.cpu_count() or 1)
"""Threads that decode what a model encodes next, where nothing is trained."""
FEATURES = "image_features"
"""Key in `Example.inputs` of the cached `Features` of the image; a tuple for several images or none."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Output of a frozen image tower for one image, as `pipeline.feature_cache` stores it.

    Attributes:
        pooled: float32 [d], one vector for the image.
        values: float16 [l, c], its grid of tokens; None where the run does not use the grid (`model.image.grid`).
    """

    pooled: np.ndarray
    values: np.ndarray | None = None


def stack_images(images: Sequence[np.ndarray], resizing: Resizing) -> Tensor:
    """uint8 [h, w, 3] images of any size -> uint8 [n, c, height_px, width_px]. The one preprocessing of the project.

    `Pipeline.resizing` is what its image encoder was trained with; normalisation is the encoder's first step.
    """
    modality = MODALITIES[IMAGE]
    return modality.stack([modality.prepare(image, resizing) for image in images])


def to_model_range(value: InputValue, dtype: torch.dtype) -> InputValue:
    """uint8 images -> numbers in [-1, 1]; other types are only cast to `dtype`."""
    if isinstance(value, Stacked):
        return value._replace(values=_in_range(value.values, dtype))
    return _in_range(value, dtype)


def _in_range(values: Tensor | Tokens, dtype: torch.dtype) -> Tensor | Tokens:
    if isinstance(values, Tokens):
        return Tokens(values.values.to(dtype), values.is_real, values.pooled.to(dtype))
    return values.to(dtype) / 127.5 - 1 if values.dtype == torch.uint8 else values.to(dtype)


def input_values(
    examples: Sequence[Example], model: ModelConfig, workers: int, resizing: Resizing
) -> dict[str, InputValue]:
    """The inputs of n examples by name, as the model's encoders take them.

    An input that none of the examples has is left out. Where each example has one value, an input is a tensor of n
    rows; where one has several or none, it is `Stacked`.

    Args:
        examples: a batch, or a part of a split.
        model: config of the inputs and their encoders.
        workers: `data.workers`; the result does not depend on it.
        resizing: of the image encoder.
    """
    found = _images(examples, resizing, workers)
    for name, encoder in model.inputs.items():
        modality = MODALITIES[encoder.modality]
        found |= _stacked(name, examples, modality, encoder.preprocessing().resizing, workers)
    return found


def image_tensor(examples: Sequence[Example], resizing: Resizing, workers: int) -> InputValue:
    """The images alone of `input_values`.

    Raises:
        InputError: no example has an image.
    """
    found = _images(examples, resizing, workers)
    if not found:
        raise InputError("examples without an image", "examples of which one has an image", "give images")
    return found[IMAGE]


def _images(examples: Sequence[Example], resizing: Resizing, workers: int) -> dict[str, InputValue]:
    if examples and all(FEATURES in example.inputs for example in examples):
        features = [references_of(example.inputs[FEATURES]) for example in examples]
        found = [one for some in features for one in some]
        return {IMAGE: _by_row(stack_features(found), [len(some) for some in features])} if found else {}
    return _stacked(IMAGE, examples, MODALITIES[IMAGE], resizing, workers)


def _stacked(
    name: str, examples: Sequence[Example], modality: Modality, preprocessing: Resizing, workers: int
) -> dict[str, InputValue]:
    """One input of the examples under its name; {} where none has it."""
    references = [references_of(example.inputs.get(name)) for example in examples]
    found = [one for some in references for one in some]
    if not found:
        return {}
    values = modality.stack(in_threads(partial(_prepared, modality, preprocessing), found, workers))
    return {name: _by_row(values, [len(some) for some in references])}


def _by_row(values: Tensor | Tokens, counts: Sequence[int]) -> InputValue:
    """The values as they are where each example has one, else `Stacked`."""
    if all(count == 1 for count in counts):
        return values
    row = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
    return Stacked(values, row, len(counts))


def _prepared(modality: Modality, preprocessing: Resizing, reference: Any) -> np.ndarray:
    return modality.prepare(modality.decode(reference), preprocessing)


def in_threads(work: Callable[[S], T], items: Sequence[S], workers: int) -> list[T]:
    """Results of `work` on each item, such as decoding an image, in order; `workers` threads (`data.workers`).

    Pillow lets other threads run while it decodes and resizes.
    """
    threads = workers or (min(MOST_WORKERS, os.cpu_count() or 1) if torch.cuda.is_available() else 1)
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        return list(pool.map(work, items))


def ahead(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Results of `work` on each item, in order; that on the next item runs in a thread while the caller uses one.

    For decoding beside a model: the model's matrix products and Pillow's decoders both let other threads run.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: Future[T] | None = None
        for item in items:
            following = pool.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def stack_features(features: Sequence[Features]) -> Tokens:
    """Features of n images -> Tokens, `pooled` float32 [n, d].

    `values` are the grids, float16 [n, l, c]; without grids the vector is the image's one token, float32 [n, 1, d].
    """
    pooled = torch.from_numpy(np.stack([feature.pooled for feature in features]))
    grids = [feature.values for feature in features if feature.values is not None]
    assert len(grids) in (0, len(features)), "some images of the batch have a grid, and some have none"
    values = torch.from_numpy(np.stack(grids)) if grids else pooled[:, None]
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool), pooled)


def pooled_features(example: Example) -> np.ndarray:
    """Cached vector of an example's image, float32 [d]: the mean over its images, as `models.inputs.grouped` has it.

    Raises:
        InputError: the example has no image.
    """
    found = references_of(example.inputs[FEATURES])
    if not found:
        raise InputError(f"{example.source}: the example has no image", "examples with an image", "leave it out")
    return found[0].pooled if len(found) == 1 else np.mean([one.pooled for one in found], axis=0)


def make_batch(
    examples: Sequence[Example],
    tasks: Mapping[str, Task[Any]],
    codec: Codec,
    run: PipelineConfig,
    epoch: int,
    resizing: Resizing | None = None,
) -> Batch:
    """Collate one training batch; callers of many batches pass the image encoder's `resizing` to read it once."""
    if resizing is None:
        resizing = run.model.image.preprocessing().resizing
    # Hashes and not running numbers, so that groups mean the same in every process of a distributed step.
    group = [counter_seed("group", example.group or example.id) for example in examples]
    return Batch(
        [example.id for example in examples],
        input_values(examples, run.model, run.data.workers, resizing),
        torch.tensor(group, dtype=torch.long),
        {name: task.collate(examples, codec, run.seed, epoch) for name, task in tasks.items()},
    )
