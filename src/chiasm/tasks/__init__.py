"""Problems: one file each, and one table."""

from collections.abc import Mapping

from chiasm.core.errors import InputError, nearest
from chiasm.core.run_config import TaskConfig
from chiasm.tasks.base import Task
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering

TASKS: dict[str, type[Task]] = {task.name: task for task in (Retrieval, VisualQuestionAnswering, Captioning)}


def build_tasks(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """Make the tasks that a config names, in its order."""
    tasks = {}
    for name, config in configs.items():
        if name not in TASKS:
            raise InputError(f"unknown task {name!r}{nearest(name, TASKS)}", "one of " + ", ".join(TASKS), "choose one")
        tasks[name] = TASKS[name](config)
    return tasks
