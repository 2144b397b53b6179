"""Verbs of a model, and the tasks that each needs."""

from collections.abc import Iterable
from typing import Any

from chiasm.core.errors import MissingTaskError
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Task
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.classification import Classification
from chiasm.tasks.conversation import Conversation
from chiasm.tasks.drawing import Drawing
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import Statements, VisualQuestionAnswering

NEEDS: dict[str, tuple[str, ...]] = {
    "ask": (VisualQuestionAnswering.name, Conversation.name, Statements.name),
    "caption": (Captioning.name, Conversation.name),
    "chat": (Conversation.name,),
    "classify": (Retrieval.name, Classification.name),
    "draw": (Drawing.name,),
    "embeddings": (Retrieval.name,),
    "match": (Retrieval.name, Matching.name),
    "search": (Retrieval.name,),
}
"""Verb -> tasks of which the model needs at least one."""


def task_for(pipeline: Pipeline, what: str) -> Task[Any]:
    """The first of the verb's tasks that the model has.

    Raises:
        MissingTaskError: it has none.
    """
    for name in NEEDS[what]:
        if name in pipeline.tasks:
            return pipeline.tasks[name]
    raise MissingTaskError(NEEDS[what][0], tuple(pipeline.tasks))


def can(tasks: Iterable[str], what: str) -> bool:
    """Whether a model with these tasks supports the verb `what`, a key of `NEEDS`."""
    return not set(tasks).isdisjoint(NEEDS[what])
