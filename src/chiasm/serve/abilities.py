"""What people can do with a model, and the tasks that it must have been trained for."""

from collections.abc import Iterable

from chiasm.tasks.captioning import Captioning
from chiasm.tasks.classification import Classification
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering

NEEDS: dict[str, tuple[str, ...]] = {
    "ask": (VisualQuestionAnswering.name,),
    "caption": (Captioning.name,),
    "classify": (Retrieval.name, Classification.name),
    "embeddings": (Retrieval.name,),
    "match": (Retrieval.name, Matching.name),
    "search": (Retrieval.name,),
}
"""What a person or client can do -> tasks of which the model must have one."""


def can(tasks: Iterable[str], what: str) -> bool:
    """Whether a model with these tasks can do this, a key of `NEEDS`."""
    return not set(tasks).isdisjoint(NEEDS[what])
