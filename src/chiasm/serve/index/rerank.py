"""The nearest pictures looked at again together with the words, by what the run has learnt for that.

Two towers compare a sentence with a picture as two points. A model that lets them meet sees which word belongs to which
part of the picture; it is too slow for a whole folder, and quick enough for the first fifty.
"""

from collections.abc import Sequence

from chiasm.core.errors import InputError
from chiasm.core.types import ImageRef
from chiasm.serve.engine import ENCODE_AT_ONCE, Model
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.matching import Matching

LOOKED_AT = 50
"""Pictures that are looked at again, unless more are asked for."""


def reranker(model: Model) -> Matching | Captioning:
    """The task that re-ranks: matching, or else captioning.

    Raises:
        InputError: the run has neither.
    """
    for name in (Matching.name, Captioning.name):
        task = model.pipeline.tasks.get(name)
        if isinstance(task, Matching | Captioning):
            return task
    raise InputError(
        "re-ranking with a model that was trained for " + ", ".join(model.tasks),
        "a run with the task matching or captioning",
        "search without re-ranking, or train a recipe such as albef or blip",
    )


def scores(model: Model, text: str, images: Sequence[ImageRef]) -> list[float]:
    """How well a sentence fits each picture, in [0, 1]: larger is better, and only the order means something.

    With matching it is the probability that they belong together; with captioning, the geometric mean of the
    probabilities of the sentence's words when the model reads it off the picture.
    """
    task, pipeline = reranker(model), model.pipeline
    found: list[float] = []
    for start in range(0, len(images), ENCODE_AT_ONCE):
        tokens = pipeline.encode_images(images[start : start + ENCODE_AT_ONCE])
        count = len(tokens.pooled)
        if isinstance(task, Matching):
            said = task.predict(pipeline.model, pipeline.codec, tokens, [text] * count, range(count))
            found += [one.evidence["match"] for one in said]
        else:
            found += task.likelihood(pipeline.model, pipeline.codec, tokens, [text] * count, range(count))
    return found
