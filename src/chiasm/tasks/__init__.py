"""Problems: one file each, and one table."""

from collections.abc import Mapping

from chiasm.core.errors import InputError, nearest
from chiasm.models.config import ModelConfig
from chiasm.tasks.base import Task, TaskConfig
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.classification import Classification
from chiasm.tasks.hidden_words import MaskedLanguageModelling, PermutationLanguageModelling
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import Statements, VisualQuestionAnswering

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Retrieval,
        VisualQuestionAnswering,
        Statements,
        Captioning,
        Classification,
        Matching,
        MaskedLanguageModelling,
        PermutationLanguageModelling,
    )
}


def task_type(name: str) -> type[Task]:
    """The class of a task that a config names.

    Raises:
        InputError: there is none of that name.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}{nearest(name, TASKS)}", "one of " + ", ".join(TASKS), "choose one")
    return TASKS[name]


def build_tasks(configs: Mapping[str, TaskConfig], model: ModelConfig) -> dict[str, Task]:
    """Make the tasks that a config names, in its order, for a model of these sizes."""
    tasks = {}
    for name, config in configs.items():
        task = task_type(name)(config, model)
        if config.objective and config.objective not in task.objectives:
            raise InputError(
                f"tasks.{name}.objective is {config.objective!r}{nearest(config.objective, task.objectives)}",
                "one of " + ", ".join(task.objectives) if task.objectives else "nothing: it has one objective",
                f"--set tasks.{name}.objective=...",
            )
        tasks[name] = task
    return tasks
