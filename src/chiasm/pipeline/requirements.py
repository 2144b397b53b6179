"""Check that the data contain what the tasks of a run need, before any image is encoded."""

from collections.abc import Iterator, Sequence
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.config import DataConfig
from chiasm.data.dataset import Dataset, first_examples
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Task

CHECKED_EXAMPLES = 64
"""Examples of a generator that are checked; of files, all are."""
WORDS = {
    "captions": "a caption",
    "questions": "a question and its answer",
    "labels": "a label",
    "conversations": "a caption, a question, a label or a conversation",
    "images": "pixels",
}


def check_fed(config: PipelineConfig, training: Dataset, validation: Dataset) -> None:
    """Check that the data contain examples for the tasks of a run.

    The training split needs examples for every task; the validation split, for the task whose metric selects the best
    weights.

    Raises:
        RejectedDataError: too many examples of either split are unusable.
        InputError: names what is missing, the split, and what the split contains.
    """
    for dataset in (training, validation):
        dataset.ledger.check(config.data.max_rejected)
    tasks = list(build_tasks(config.tasks, config.model).values())
    examples = list(checked_examples(training))
    for task in tasks:
        if not any(map(task.is_fed, examples)):
            raise _missing(task, f"learns from {task.needs}", config.data, config.data.train_split, examples)
    primary = config.primary_metric or tasks[0].primary_metric
    examples = list(checked_examples(validation))
    for task in tasks:
        if task.primary_metric != primary or any(map(task.is_measurable, examples)):
            continue
        if any(map(task.is_fed, examples)):  # of classes alone
            raise InputError(
                f"{primary} picks the best weights, and the validation images of {_where(config.data)} have "
                "a class and no caption",
                "images with captions; or a metric of classes",
                f"`chiasm train {_where(config.data)}` for a recipe that fits, or --set primary_metric=acc1",
            )
        raise _missing(task, f"is validated on {task.needs}", config.data, "val", examples)


def check_scorable(tasks: Sequence[Task[Any]], dataset: Dataset, data: DataConfig) -> None:
    """Check that a split has examples on which at least one task can be scored.

    Raises:
        InputError: names what the split contains.
    """
    examples = list(checked_examples(dataset))
    if not any(task.is_fed(example) for task in tasks for example in examples):
        needed = " or ".join(dict.fromkeys(WORDS[task.needs] for task in tasks))
        names = ", ".join(task.name for task in tasks)
        raise InputError(
            f"split {dataset.split!r} of {_where(data)} has nothing that the tasks {names} can be scored on: "
            f"{_counted(examples)}",
            f"images with {needed}",
            "other data, or a run that was trained for what these have; and see data.languages",
        )


def checked_examples(dataset: Dataset) -> Iterator[Example]:
    """The examples that the checks read, see `CHECKED_EXAMPLES`."""
    return first_examples(dataset, CHECKED_EXAMPLES)


def _missing(task: Task[Any], need: str, data: DataConfig, split: str, examples: Sequence[Example]) -> InputError:
    return InputError(
        f"the task {task.name} {need}, and split {split!r} of {_where(data)} has none: {_counted(examples)}",
        f"images with {WORDS[task.needs]}",
        f"`chiasm train {data.path}` for a recipe that these files can feed"
        if data.path
        else "another recipe, or files of your own with --data",
    )


def _counted(examples: Sequence[Example]) -> str:
    """Number of images, and how many have captions, questions and labels."""
    counts = {
        "captions": sum(bool(example.captions) for example in examples),
        "questions": sum(bool(example.questions) for example in examples),
        "labels": sum(bool(example.label) for example in examples),
    }
    has = ", ".join(f"{count} with {WORDS[word]}" for word, count in counts.items() if count)
    return f"{len(examples)} images, {has or 'no words and no label'}"


def _where(data: DataConfig) -> str:
    return data.path or data.source
