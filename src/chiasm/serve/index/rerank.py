"""The nearest pictures looked at again together with the words, by what the run has learnt for that.

Two towers compare a sentence with a picture as two points. A model that lets them meet sees which word belongs to which
part of the picture; it is too slow for a whole folder, and quick enough for the first fifty.

Both looks count. Matching is trained against wrong pictures drawn in proportion to exp(s cos), s the contrast's scale,
so what it has learnt is how much likelier the right picture is than that draw: the logarithm of their ratio, to which
the draw's own logarithm has to be added again (noise-contrastive estimation with a learned noise, Gutmann and Hyvärinen
2012, section 2.2). Putting its verdict in the place of the first look's would forget what both of them rest on.
"""

from collections.abc import Sequence

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.types import ImageRef, Tokens
from chiasm.serve.engine import ENCODE_AT_ONCE, Model
from chiasm.tasks.base import logit_of
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import softmax

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


def evidence(model: Model, text: str, tokens: Tokens) -> list[float]:
    """What the second look says of a sentence and each of n encoded pictures: a logarithm, larger for a better fit.

    With matching the logit that they belong together, calibrated; with captioning the logarithm of the
    probability that the model writes this sentence about the picture.
    """
    task, pipeline, count = reranker(model), model.pipeline, len(tokens.pooled)
    texts, of = [text] * count, range(count)
    if isinstance(task, Matching):
        said = task.predict(pipeline.model, pipeline.codec, tokens, texts, of)
        return [logit_of(one.evidence["match"]) for one in said]
    return task.log_likelihood(pipeline.model, pipeline.codec, tokens, texts, of)


def shares(model: Model, cosines: Sequence[float], second: Sequence[float]) -> list[float]:
    """Probability of each picture that it is the one meant, among these: the softmax of s cos + `evidence`."""
    scale = model.pipeline.model.logit_scale
    assert scale is not None, "a model with an index has a contrast"
    logits = scale.exp().item() * np.asarray(cosines, dtype=np.float64) + np.asarray(second, dtype=np.float64)
    return [float(share) for share in softmax(logits[None])[0]]


def scores(model: Model, text: str, images: Sequence[ImageRef], cosines: Sequence[float]) -> list[float]:
    """`shares` of pictures that the first look found.

    Args:
        model: with a contrast, and with matching or captioning.
        text: the sentence.
        images: pictures.
        cosines: theirs to the query, in the same order.
    """
    found: list[float] = []
    for start in range(0, len(images), ENCODE_AT_ONCE):
        found += evidence(model, text, model.pipeline.encode_images(images[start : start + ENCODE_AT_ONCE]))
    return shares(model, cosines, found) if found else []
