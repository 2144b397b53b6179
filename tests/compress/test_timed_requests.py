"""Requests are the same to every model, and are answered without a cache."""

import time

import numpy as np
import pytest

from chiasm.compress import timed_requests
from chiasm.compress.timed_requests import Requests, timed
from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.pipeline.pipeline import Pipeline


def test_every_task_answers_for_every_image(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a time that leaves out a task, or that a cache of text vectors makes too short."""
    seen = {}
    for name, task in pipeline.tasks.items():
        predict = task.predict

        def spy(model, codec, encoded, queries, name=name, predict=predict):  # type: ignore[no-untyped-def]
            assert codec.text_vectors == {}
            seen[name] = len(queries), len(encoded["image"].pooled)
            return predict(model, codec, encoded, queries)

        monkeypatch.setattr(task, "predict", spy)
    pipeline.codec.text_vectors = {examples[0].captions[0].text: np.zeros(3, np.float32)}
    asked = Requests(pipeline, examples, 30)  # more than there are examples
    asked.answer(pipeline)
    assert seen == dict.fromkeys(pipeline.tasks, (30, 30))


def test_rounds_are_interleaved_and_give_the_median(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a slow minute of the machine that only one of the models was timed in."""
    order: list[Pipeline] = []
    other = Pipeline(pipeline.config, pipeline.model, pipeline.codec, pipeline.device)

    def answer(self: Requests, one: Pipeline) -> None:
        order.append(one)
        time.sleep(0.004 if one is other else 0.0)

    monkeypatch.setattr(Requests, "answer", answer)
    monkeypatch.setattr(timed_requests, "MOST_ROUNDS", 6)
    (first, _), (second, late) = timed([pipeline, other], Requests(pipeline, examples, 1))
    assert order == [pipeline, other] * 7  # one round to warm up
    assert first < 0.004 <= second <= late


def test_a_split_without_images_is_refused(pipeline: Pipeline) -> None:
    """Guards against an internal error where the data are texts alone."""
    with pytest.raises(InputError, match="image"):
        Requests(pipeline, [Example("a", {})], 1)
