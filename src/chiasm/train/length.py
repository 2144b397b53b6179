"""How many optimiser steps a run takes: by its examples, batch and config, with a floor, and within a time limit."""

from dataclasses import dataclass

from chiasm.train.config import TrainConfig
from chiasm.train.state import Progress

FIT_AFTER_STEPS = 20
"""Steps before the first check whether the run fits its time limit."""


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
    batches = f"{examples:,} examples in batches of {batch_size:,}"
    if steps >= train.least_steps:
        return Length(steps, f"{steps:,} steps: {train.epochs:g} passes over {batches} (train.epochs)")
    passes = train.least_steps / a_pass
    why = f"{train.least_steps:,} steps, the floor (train.least_steps): {passes:.0f} passes over {batches}"
    return Length(train.least_steps, f"{why}, where train.epochs is {train.epochs:g}")


class TimeLimit:
    """Shortens a run so that its schedule ends with its time limit: as many steps as the measured speed allows.

    The speed is measured twenty times a run, so a short load peak does not shorten the whole run. A run that fits its
    limit is not changed, and stays bitwise reproducible.

    Args:
        limit_s: seconds that training may take; 0 sets no limit.
        planned: steps without a limit.
        progress: counters of the run; its `total_steps` is shortened.
    """

    def __init__(self, limit_s: float, planned: int, progress: Progress) -> None:
        self.limit_s, self.planned, self.progress = limit_s, planned, progress
        self._measured = (progress.step, progress.trained_s)

    def shorten(self) -> None:
        """Call after each step, with `progress.step` and `progress.trained_s` up to date."""
        progress, every = self.progress, max(FIT_AFTER_STEPS, self.planned // 20)
        if not self.limit_s or (progress.step % every and progress.step != FIT_AFTER_STEPS):
            return
        fits = self._fitting_steps()
        self._measured = (progress.step, progress.trained_s)
        if fits is None or progress.step > 0.95 * progress.total_steps:
            return
        progress.total_steps = min(self.planned, max(fits, progress.step + 1))

    @property
    def likely_steps(self) -> int:
        """Steps of the run as far as is known, for a progress bar: before the first check those of the mean speed."""
        progress = self.progress
        fits = self._fitting_steps() if self.limit_s and progress.step < FIT_AFTER_STEPS else None
        return progress.total_steps if fits is None else min(progress.total_steps, max(fits, FIT_AFTER_STEPS))

    def _fitting_steps(self) -> int | None:
        """Steps that the limit leaves room for at the speed since the last check; None where there was no step."""
        progress, (step, seconds) = self.progress, self._measured
        if progress.step == step:
            return None
        seconds_a_step = (progress.trained_s - seconds) / (progress.step - step)
        return progress.step + int((self.limit_s - progress.trained_s) / seconds_a_step)
