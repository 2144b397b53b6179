"""Examples -> Batch: pictures stacked once, and each task's own fields beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from chiasm.core.random import counter_seed
from chiasm.core.run_config import ImageTowerConfig, RunConfig
from chiasm.core.types import Batch, Example
from chiasm.data.image import resize_square
from chiasm.tasks.base import Codec, Task

FEATURES = "image_features"
"""Key in `Example.inputs` of a frozen image tower's vector, float32 [d]."""


def stack_pictures(pictures: Sequence[np.ndarray], tower: ImageTowerConfig) -> Tensor:
    """uint8 [h, w, 3] pictures of any size -> uint8 [n, 3, size_px, size_px]. The one preprocessing of the project."""
    crop = tower.kind != "conv"
    resized = np.stack([resize_square(picture, tower.size_px, crop) for picture in pictures])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def to_model_range(image: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 pictures -> numbers in [-1, 1]; cached features only change their type."""
    if image.dtype != torch.uint8:
        return image.to(dtype)
    return image.to(dtype) / 127.5 - 1


def image_tensor(examples: Sequence[Example], tower: ImageTowerConfig) -> Tensor:
    """Pictures of the examples, or their cached features where every example has them."""
    if examples and all(FEATURES in example.inputs for example in examples):
        return torch.from_numpy(np.stack([example.inputs[FEATURES] for example in examples]))
    return stack_pictures([example.inputs["image"].load() for example in examples], tower)


def make_batch(
    examples: Sequence[Example], tasks: Mapping[str, Task], codec: Codec, run: RunConfig, epoch: int
) -> Batch:
    """Collate one training batch."""
    # Hashes and not running numbers, so that groups mean the same in every process of a distributed step.
    group = [counter_seed("group", example.group or example.id) for example in examples]
    return Batch(
        [example.id for example in examples],
        image_tensor(examples, run.model.image),
        torch.tensor(group, dtype=torch.long),
        {name: task.collate(examples, codec, run, epoch) for name, task in tasks.items()},
    )
