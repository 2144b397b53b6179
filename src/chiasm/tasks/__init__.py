"""The tasks, one file each, and their table `TASKS`."""

from collections.abc import Mapping
from typing import Any

from chiasm.core.errors import InputError, nearest
from chiasm.models.config import ModelConfig
from chiasm.tasks.base import Task, TaskConfig
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.classification import Classification
from chiasm.tasks.conversation import Conversation
from chiasm.tasks.drawing import Drawing
from chiasm.tasks.hidden_words import MaskedLanguageModelling, PermutationLanguageModelling
from chiasm.tasks.matching import Matching
from chiasm.tasks.reconstruction import Reconstruction
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import Statements, VisualQuestionAnswering

TASKS: dict[str, type[Task[Any]]] = {
    task.name: task
    for task in (
        Retrieval,
        VisualQuestionAnswering,
        Statements,
        Matching,
        MaskedLanguageModelling,
        PermutationLanguageModelling,
        Captioning,
        Classification,
        Conversation,
        Drawing,
        Reconstruction,
    )
}


def task_configs() -> Mapping[str, type[TaskConfig]]:
    """Name -> class of the task's config."""
    return {name: task.Config for name, task in TASKS.items()}


def task_type(name: str) -> type[Task[Any]]:
    """The class of a task that a config names.

    Raises:
        InputError: there is none of that name.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}{nearest(name, TASKS)}", "one of " + ", ".join(TASKS), "choose one")
    return TASKS[name]


def build_tasks(configs: Mapping[str, TaskConfig], model: ModelConfig) -> dict[str, Task[Any]]:
    """Make the tasks that a config names, in its order, for a model of these sizes."""
    for name, config in configs.items():
        own = task_type(name).Config
        if not isinstance(config, own):
            raise InputError(
                f"the config of the task {name} is a {type(config).__name__}", own.__name__, f"give a {own.__name__}"
            )
    return {name: task_type(name)(config, model) for name, config in configs.items()}
