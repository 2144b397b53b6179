"""One split measured honestly: the scores, and beside them those of the same model with the pictures dealt wrongly."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.log import Bar, bar
from chiasm.core.types import Example
from chiasm.data.dataset import open_dataset
from chiasm.data.ledger import Ledger
from chiasm.evaluate.evaluator import Outcome, evaluate
from chiasm.evaluate.report import MetricRow
from chiasm.tasks.features import cache_root, prepare
from chiasm.tasks.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Measured:
    """A split's examples, what the model said of them, and what it said of the wrong pictures."""

    split: str
    examples: Sequence[Example]
    outcome: Outcome
    blind: Outcome
    ledger: Ledger

    def rows(self) -> list[MetricRow]:
        """The table: score, blind score, and what guessing reaches; the headline numbers stand first."""
        scores = self.outcome.scores
        wide = [name for name in scores if name.endswith(("@5", "@10"))]
        return [
            MetricRow(name, scores[name], self.blind.scores.get(name), self.outcome.baseline.get(name))
            for name in [name for name in scores if name not in wide] + wide
        ]

    def kind_rows(self) -> list[MetricRow]:
        """Scores by kind of question, or by language."""
        return [
            MetricRow(f"{name}: {kind}", score, self.blind.by_kind.get(name, {}).get(kind))
            for name, kinds in self.outcome.by_kind.items()
            for kind, score in kinds.items()
        ]


class Stages:
    """Turns the (done, total, what) calls of preparation into one bar after another.

    Args:
        console: where people look.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.what, self.bar = "", None  # type: str, Bar | None

    def __call__(self, done: int, total: int, what: str) -> None:
        """Advance the bar of `what`, which starts with its first call."""
        if self.bar is None or what != self.what:
            self.close()
            self.what, self.bar = what, Bar(self.console, what, "items", total)
        self.bar.update(done, total=total)
        if done == total:
            self.close()

    def close(self) -> None:
        """End the bar that is open."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def open_prepared(pipeline: Pipeline, split: str, console: Console) -> tuple[list[Example], Ledger]:
    """Open a split of the data that the pipeline's config names, checked and encoded where towers are frozen."""
    stages = Stages(console)
    try:
        dataset = prepare(
            pipeline, open_dataset(pipeline.config.data, split, pipeline.config.seed), cache_root(), stages
        )
    finally:
        stages.close()
    return [dataset.example(number) for number in range(len(dataset))], dataset.ledger


def measure(pipeline: Pipeline, examples: Sequence[Example], ledger: Ledger, split: str, console: Console) -> Measured:
    """Evaluate a prepared split twice: as it is, and blind."""
    if len(examples) < 2:
        raise InputError(f"split {split!r} has {len(examples)} examples", "at least 2", "give more data")
    with bar(console, "evaluating", "pictures", 2 * len(examples)) as shown:
        seen = evaluate(pipeline, examples, report=lambda done, _: shown.update(done, "with pictures"))
        blind = evaluate(
            pipeline,
            examples,
            blind=True,
            report=lambda done, _: shown.update(len(examples) + done, "pictures shuffled"),
        )
    if not seen.scores:
        raise InputError(
            f"split {split!r} has nothing that the tasks {', '.join(pipeline.tasks)} can be scored on",
            "captions for retrieval and captioning, questions for vqa",
            "check the data's columns, or the languages in data.languages",
        )
    return Measured(split, examples, seen, blind, ledger)
