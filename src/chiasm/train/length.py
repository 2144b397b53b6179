"""How many optimiser steps a run takes: from its examples, its batch and its config, with a floor for few examples."""

from dataclasses import dataclass

from chiasm.train.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Length:
    """A number of steps, and the reason in words."""

    steps: int
    why: str


def fitting_batch(train: TrainConfig, examples: int, share: int = 1) -> int:
    """Examples a step: `train.batch_size`, less where a pass would have fewer than `train.least_batches` batches.

    Args:
        train: names both.
        examples: of the training split; no batch is larger.
        share: processes times accumulation parts, each of which gets an example.
    """
    size = min(train.batch_size, examples)
    if train.least_batches == 1:
        return size
    part = examples // train.least_batches
    return min(size, max(part, share))


def planned_length(train: TrainConfig, examples: int, batch_size: int) -> Length:
    """Steps of a run: `train.steps`; else `train.epochs` passes over the examples, but at least `train.least_steps`.

    Without the floor, a recipe whose passes fit thousands of examples takes ten steps on eighty.

    Args:
        train: names the length.
        examples: of the training split.
        batch_size: examples a step; an epoch's last, incomplete batch is left out.
    """
    if not train.steps and not train.epochs:
        return Length(0, "no step: the heads that were fitted are all that is trained (linear_probe)")
    if train.steps:
        return Length(train.steps, f"{train.steps:,} steps, set by train.steps")
    a_pass = max(1, examples // batch_size)
    steps = max(1, round(train.epochs * a_pass))
    of = f"{examples:,} examples in batches of {batch_size:,}"
    if steps >= train.least_steps:
        return Length(steps, f"{steps:,} steps: {train.epochs:g} passes over {of} (train.epochs)")
    passes = train.least_steps / a_pass
    why = f"{train.least_steps:,} steps, the floor (train.least_steps): {passes:.0f} passes over {of}"
    return Length(train.least_steps, f"{why}, where train.epochs says {train.epochs:g}")
