"""Whether the data have what the tasks of a run learn from, found out before an image is encoded."""

from collections.abc import Iterator, Sequence
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.config import DataConfig
from chiasm.data.dataset import Dataset, first_examples
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Task

LOOKED_AT = 64
"""Examples of a generator that are looked at; of files, all are."""
WORDS = {"captions": "a caption", "questions": "a question and its answer", "labels": "a label"}


def check_fed(config: PipelineConfig, training: Dataset, validation: Dataset) -> None:
    """Refuse data that a task of the run finds nothing in.

    Every task must find something in training; in validation, the task whose metric picks the best weights.

    Raises:
        RejectedDataError: too much of either is unusable.
        InputError: says what is missing, in which split, and what the split has instead.
    """
    for dataset in (training, validation):
        dataset.ledger.check(config.data.max_rejected)
    tasks = list(build_tasks(config.tasks, config.model).values())
    examples = list(looked_at(training))
    for task in tasks:
        if not any(map(task.is_fed, examples)):
            raise _missing(task, f"learns from {task.needs}", config.data, config.data.train_split, examples)
    primary = config.primary_metric or tasks[0].primary_metric
    examples = list(looked_at(validation))
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
    """Refuse a split in which none of a run's tasks finds anything to be measured on.

    Raises:
        InputError: says what the split has instead.
    """
    examples = list(looked_at(dataset))
    if not any(task.is_fed(example) for task in tasks for example in examples):
        needed = " or ".join(dict.fromkeys(WORDS[task.needs] for task in tasks))
        names = ", ".join(task.name for task in tasks)
        raise InputError(
            f"split {dataset.split!r} of {_where(data)} has nothing that the tasks {names} can be scored on: "
            f"{_counted(examples)}",
            f"images with {needed}",
            "other data, or a run that was trained for what these have; and see data.languages",
        )


def looked_at(dataset: Dataset) -> Iterator[Example]:
    """The examples that are looked at, see `LOOKED_AT`."""
    return first_examples(dataset, LOOKED_AT)


def _missing(task: Task[Any], how: str, data: DataConfig, split: str, examples: Sequence[Example]) -> InputError:
    return InputError(
        f"the task {task.name} {how}, and split {split!r} of {_where(data)} has none: {_counted(examples)}",
        f"images with {WORDS[task.needs]}",
        f"`chiasm train {data.path}` for a recipe that these files can feed"
        if data.path
        else "another recipe, or files of your own with --data",
    )


def _counted(examples: Sequence[Example]) -> str:
    """How many images there are, and what they have."""
    counts = {
        "captions": sum(bool(one.captions) for one in examples),
        "questions": sum(bool(one.questions) for one in examples),
        "labels": sum(bool(one.label) for one in examples),
    }
    has = ", ".join(f"{count} with {WORDS[word]}" for word, count in counts.items() if count)
    return f"{len(examples)} images, {has or 'no words and no label'}"


def _where(data: DataConfig) -> str:
    return data.path or data.source
