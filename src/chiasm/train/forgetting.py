"""Measuring forgetting: held-out examples of the old domain, scored before, during and after training on a new one.

They are scored by the evaluator of validation, with the run's own tasks.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.files import cache_root
from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Score
from chiasm.data.config import DataConfig
from chiasm.data.dataset import Subset, examples_of
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import ProgressBars
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Task
from chiasm.tasks.scoring import Outcome
from chiasm.train.config import RunConfig, config_of

USUAL_METRICS = ("text_to_image_R@10", "acc1")
"""Metrics that are tried in order where the config names none."""
TRIED_EXAMPLES = 64
"""Examples on which all tasks are scored to find the one that gives the metric."""


class RetentionCheck:
    """Scores the old domain's examples with a pipeline's current weights.

    Args:
        pipeline: the model that is trained; it is not changed.
        console: output of progress and warnings.

    Raises:
        InputError: no such files, fewer than two examples, or a metric that the run's tasks do not give.
    """

    def __init__(self, pipeline: Pipeline, console: Console) -> None:
        self.config, self.console = config_of(pipeline).train.retention, console
        self.pipeline = copy.copy(pipeline)
        self.pipeline.config = replace(pipeline.config, data=retention_data(config_of(pipeline)))
        self.examples = self._open()
        self.metric, self.pipeline.tasks = self._choose()

    @property
    def about(self) -> str:
        """What is measured, in words."""
        return f"{len(self.examples):,} images of the split “{self.config.split}”"

    def outcome(self) -> Outcome:
        """Evaluate the current weights on the examples."""
        return evaluate(self.pipeline, self.examples)

    def measure(self) -> Score:
        """The metric with the current weights; the model must be in evaluation mode."""
        return self.outcome().scores[self.metric]

    def measure_first(self) -> Score:
        """The metric before training, with a warning where there is nothing to lose."""
        outcome = self.outcome()
        score, chance = outcome.scores[self.metric], outcome.baseline.get(self.metric, 0.0)
        self.report(f"retention: {self.metric} is {score.value:.3f} before training ({self.about})")
        if score.low <= chance:
            self.warn(f"that is the chance level ({chance:.3f}): a drop below it cannot be measured")
        return score

    def report(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Print a line as a warning."""
        self.console.print(text, highlight=False, markup=False, style="yellow")

    def drop(self, step: int, before: float, now: float) -> str:
        """The warning for a value below the floor, "" for one above it."""
        if now >= self.config.floor(before):
            return ""
        return (
            f"step {step}: {self.metric} on the old domain fell from {before:.3f} before training to {now:.3f}: "
            f"{100 * now / before:.0f} % kept, {100 * (1 - self.config.max_drop):.0f} % required"
        )

    def _open(self) -> Sequence[Example]:
        found = open_dataset(self.pipeline.config.data, self.config.split, self.pipeline.config.seed)
        count = self.config.examples or len(found)
        drawn = Subset(found, counter_rng("probe", len(found)).permutation(len(found))[:count])
        bars = ProgressBars(self.console)
        try:
            ready = prepare(self.pipeline, drawn, cache_root(), bars)
        finally:
            bars.close()
        if len(ready) < 2:
            raise InputError(
                f"usable examples in {self.config.split!r} of train.retention.path {self.config.path}: {len(ready)}",
                "at least 2",
                "give more data, or another train.retention.split",
            )
        return examples_of(ready)

    def _choose(self) -> tuple[str, dict[str, Task[Any]]]:
        """The metric, and the one task that gives it."""
        by_metric: dict[str, str] = {}
        for name, task in self.pipeline.tasks.items():
            alone = copy.copy(self.pipeline)
            alone.tasks = {name: task}
            for metric in evaluate(alone, self.examples[:TRIED_EXAMPLES]).scores:
                by_metric.setdefault(metric, name)
        wanted = (self.config.metric,) if self.config.metric else (*USUAL_METRICS, *by_metric)
        rising = {metric: name for metric, name in by_metric.items() if not metric.endswith("_ECE")}
        chosen = next((metric for metric in wanted if metric in rising), None)
        if chosen is None:
            raise InputError(
                f"train.retention.metric is {self.config.metric!r}, which the tasks {', '.join(self.pipeline.tasks)} "
                f"do not give on {self.config.path}",
                "one of " + ", ".join(rising) if rising else "examples with captions, questions or labels",
                "--set train.retention.metric=..., or add the task that gives it",
            )
        return chosen, {rising[chosen]: self.pipeline.tasks[rising[chosen]]}


def retention_data(config: RunConfig) -> DataConfig:
    """The data config of the old domain's examples."""
    retention = config.train.retention
    return FilesConfig(
        path=retention.path,
        format=retention.format,
        images=retention.images,
        languages=retention.languages,
        label_prompts=retention.label_prompts,
        max_rejected=config.data.max_rejected,
    )
