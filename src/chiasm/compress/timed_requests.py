"""Requests to time: n images with a query for every task, as a server would answer them together."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example, Turn
from chiasm.data.modalities.image import images_of
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query

BATCHES = (1, 16)
"""Numbers of requests that are answered together."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 40
ENOUGH_S = 6.0
"""Rounds end when one model has been timed for so long with one batch, or after `MOST_ROUNDS`."""


class Requests:
    """The same n requests to any number of pipelines with equal preprocessing; images are decoded beforehand.

    Args:
        pipeline: its tasks, its preprocessing and its language are asked for.
        examples: of the user's data; the first with an image, repeated where they are fewer than `count`.
        count: n.
    """

    def __init__(self, pipeline: Pipeline, examples: Sequence[Example], count: int) -> None:
        shown = [example for example in examples[: 8 * count] if images_of(example)]
        if not shown:
            raise InputError("examples without an image", "a split with images", "give other --data")
        chosen = [shown[number % len(shown)] for number in range(count)]
        self.pixels = stack_images([images_of(example)[0].load() for example in chosen], pipeline.resizing)
        self.texts = {name: [_text(task.texts_read([one])) for one in chosen] for name, task in pipeline.tasks.items()}
        self.language = pipeline.config.data.languages[0]

    def answer(self, pipeline: Pipeline) -> None:
        """Encode the images and answer every task's queries; nothing is taken from a cache."""
        encoded = {IMAGE: pipeline.encode_pixels(self.pixels)}
        codec = replace(pipeline.codec, text_vectors={})
        for name, task in pipeline.tasks.items():
            texts = self.texts[name]
            # A task with a vocabulary of its own chooses among that; another one among the texts.
            among = () if task.vocabularies else tuple(dict.fromkeys(texts))
            queries = [
                Query(row, text, self.language, among, ("{label}",), (Turn("user", text),))
                for row, text in enumerate(texts)
            ]
            task.predict(pipeline.model, codec, encoded, queries)


def timed(pipelines: Sequence[Pipeline], requests: Requests) -> list[tuple[float, float]]:
    """Median and 95th percentile of the time of one `answer` of each pipeline, in seconds; rounds are interleaved."""
    taken: list[list[float]] = [[] for _ in pipelines]
    for pipeline in pipelines:
        requests.answer(pipeline)
    while len(taken[0]) < LEAST_ROUNDS or (len(taken[0]) < MOST_ROUNDS and max(map(sum, taken)) < ENOUGH_S):
        for pipeline, own in zip(pipelines, taken, strict=True):
            start = time.perf_counter()
            requests.answer(pipeline)
            own.append(time.perf_counter() - start)
    return [(float(np.quantile(own, 0.5)), float(np.quantile(own, 0.95))) for own in taken]


def _text(read: Sequence[str]) -> str:
    return next(iter(read), "")
