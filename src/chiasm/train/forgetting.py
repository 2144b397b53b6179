"""A probe of the old domain: held-out examples that the model could do before, measured while it learns others.

The same evaluator measures them as measures validation, with the run's own tasks.
"""

import copy
from dataclasses import replace
from typing import Any

from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Score
from chiasm.data.config import DataConfig
from chiasm.data.dataset import Subset
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import ProgressBars
from chiasm.pipeline.feature_cache import cache_root, prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Task
from chiasm.tasks.scoring import Outcome
from chiasm.train.config import RunConfig, config_of

USUAL_METRICS = ("text_to_image_R@10", "acc1")
"""What is watched where no metric is named: the first that the examples can be scored on."""
LOOKED_AT = 64
"""Examples that show which task gives the metric; the others then do not run on the probe."""


class Guard:
    """The old domain's examples, ready to be measured with a pipeline's current weights.

    Args:
        pipeline: the model that is trained; it is only looked at.
        console: where people look.

    Raises:
        InputError: no such files, fewer than two examples, or a metric that the run's tasks do not give.
    """

    def __init__(self, pipeline: Pipeline, console: Console) -> None:
        self.config, self.console = config_of(pipeline).train.probe, console
        self.pipeline = copy.copy(pipeline)
        self.pipeline.config = replace(pipeline.config, data=probe_data(config_of(pipeline)))
        self.examples = self._open()
        self.metric, self.pipeline.tasks = self._choose()

    @property
    def about(self) -> str:
        """What is measured, in words."""
        return f"{len(self.examples):,} pictures of the split “{self.config.split}”"

    def outcome(self) -> Outcome:
        """All that the current weights say of the examples."""
        return evaluate(self.pipeline, self.examples)

    def measure(self) -> Score:
        """The metric with the current weights; the model must be in evaluation mode."""
        return self.outcome().scores[self.metric]

    def first_look(self) -> Score:
        """The metric before training, with a warning where there is nothing to lose."""
        outcome = self.outcome()
        score, chance = outcome.scores[self.metric], outcome.baseline.get(self.metric, 0.0)
        self.say(f"probe: {self.metric} is {score.value:.3f} before training ({self.about})")
        if score.low <= chance:
            self.warn(f"that is what guessing reaches ({chance:.3f}): the probe cannot see anything being lost")
        return score

    def say(self, text: str) -> None:
        """Tell people."""
        self.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Tell people what they should not miss."""
        self.console.print(text, highlight=False, markup=False, style="yellow")

    def fall(self, step: int, before: float, now: float) -> str:
        """Words for a value below the floor, "" for one that is enough."""
        if now >= self.config.floor(before):
            return ""
        return (
            f"step {step}: {self.metric} on the old domain fell from {before:.3f} before training to {now:.3f}: "
            f"{100 * now / before:.0f} % kept, {100 * (1 - self.config.max_drop):.0f} % asked for"
        )

    def _open(self) -> list[Example]:
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
                f"usable examples in {self.config.split!r} of train.probe.path {self.config.path}: {len(ready)}",
                "at least 2",
                "give more data, or another train.probe.split",
            )
        return [ready.example(number) for number in range(len(ready))]

    def _choose(self) -> tuple[str, dict[str, Task[Any]]]:
        """The metric, and the one task that gives it."""
        by_metric: dict[str, str] = {}
        for name, task in self.pipeline.tasks.items():
            alone = copy.copy(self.pipeline)
            alone.tasks = {name: task}
            for metric in evaluate(alone, self.examples[:LOOKED_AT]).scores:
                by_metric.setdefault(metric, name)
        wanted = (self.config.metric,) if self.config.metric else (*USUAL_METRICS, *by_metric)
        rising = {metric: name for metric, name in by_metric.items() if not metric.endswith("_ECE")}
        chosen = next((metric for metric in wanted if metric in rising), None)
        if chosen is None:
            raise InputError(
                f"train.probe.metric is {self.config.metric!r}, which the tasks {', '.join(self.pipeline.tasks)} "
                f"do not give on {self.config.path}",
                "one of " + ", ".join(rising) if rising else "examples with captions, questions or labels",
                "--set train.probe.metric=..., or add the task that gives it",
            )
        return chosen, {rising[chosen]: self.pipeline.tasks[rising[chosen]]}


def probe_data(config: RunConfig) -> DataConfig:
    """Where the probe's examples come from."""
    probe = config.train.probe
    return FilesConfig(
        path=probe.path,
        format=probe.format,
        images=probe.images,
        languages=probe.languages,
        label_prompts=probe.label_prompts,
        max_rejected=config.data.max_rejected,
    )
