"""How fast a model is here, as `chiasm bench` measures it."""

import datetime
from dataclasses import dataclass
from functools import partial
from os import fspath
from typing import Any

from rich.console import Console

from chiasm.api.opening import change, unchanged
from chiasm.api.overrides import Place
from chiasm.core.device import environment
from chiasm.core.errors import InputError
from chiasm.core.log import stderr_console
from chiasm.data.files import of_files
from chiasm.data.opening import open_dataset
from chiasm.evaluate.speed.compare import BATCH, ROUNDS, Bench, compare
from chiasm.models.execution import formats_of
from chiasm.serve.engine import load


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Speed of a run beside other engines.

    Attributes:
        run: the run as given.
        data: path of the files, or name of the generator.
        date: day of the measurement, ISO 8601.
        bench: limits of the machine, and for each work the engines, fastest first.
        plan: part of the model -> what "auto" chose for it, and why.
        environment: hardware and versions.
    """

    run: str
    data: str
    date: str
    bench: Bench
    plan: dict[str, dict[str, str | float]]
    environment: dict[str, str | int]

    def as_dict(self) -> dict[str, Any]:
        """What `chiasm bench --json` writes."""
        told = {"run": self.run, "data": self.data, "date": self.date}
        return {**told, **self.bench.as_dict(), "plan": self.plan, "environment": self.environment}


def bench(
    run: Place = "starter",
    data: Place | None = None,
    split: str = "val",
    *,
    batch: int = BATCH,
    rounds: int = ROUNDS,
    progress: bool = True,
) -> BenchResult:
    """Measure how fast a model computes vectors of your images and texts, beside other engines with its weights.

    chiasm computes under each execution plan (`model.execution`): in fp32, in each format that the machine has
    instructions for, and as "auto" chooses. Also measures what the machine can do at most. Rounds are interleaved,
    numbers are medians, and each speed has the cosine of its vectors to those in fp32.

    Example:
        >>> found = chiasm.bench("starter", "PHOTOS", batch=4, rounds=1, progress=False)
        >>> "chiasm fp32" in [line.engine for line in found.bench.works["texts"]]
        True

    Args:
        run: a run folder, a folder in the layout of Hugging Face or open_clip, or the word "starter".
        data: folder or file; the run's own data if not given.
        split: split whose images and texts are taken.
        batch: images, and texts, that are given at once.
        rounds: number of rounds.
        progress: say on standard error what is being measured.

    Raises:
        InputError: a run without a space shared by images and texts, or data without images or texts.
    """
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name} is {value}", "1 or more", f"give another {name}")
    console = stderr_console() if progress else Console(quiet=True)
    model = load(run, "fp32")
    plans = [*formats_of(model.pipeline.device), "auto"]
    others = {plan: load(run, plan) for plan in plans}
    with unchanged(model):
        pipeline = model.pipeline
        pipeline.shared_space()
        chosen = pipeline.config.data if data is None else of_files(pipeline.config.data, fspath(data))
        change(pipeline, chosen, [])
        dataset = open_dataset(chosen, split, pipeline.config.seed)
        examples = [dataset.example(number) for number in range(min(len(dataset), 8 * batch))]
        named = {f"chiasm {plan}": one.pipeline for plan, one in others.items()}
        found = compare(pipeline, examples, batch, rounds, partial(_say, console), named)
        source = chosen.source if data is None else fspath(data)
    chosen_plan = others["auto"].plan.as_dict()
    return BenchResult(fspath(run), source, str(datetime.date.today()), found, chosen_plan, environment())


def _say(console: Console, text: str) -> None:
    console.print(f"{text} ...", highlight=False)
