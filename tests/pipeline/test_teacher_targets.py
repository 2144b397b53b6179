"""A teacher's vectors stand beside the captions: its own, and the mean of an image's for other languages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Example
from chiasm.data.dataset import ListDataset
from chiasm.data.ledger import Ledger
from chiasm.data.mixture import MixedDataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.teacher_targets import attach_teacher_targets
from chiasm.tasks.text_targets import TARGETS
from chiasm.train.config import RunConfig

TWO = Example("two", {}, (Caption("a red circle", "en"), Caption("a circle", "en"), Caption("红色圆形", "zh")))
ONE = Example("one", {}, (Caption("a blue square", "en"),))
NONE = Example("none", {}, (Caption("蓝色方形", "zh"),))


def quiet(done: int, total: int, what: str) -> None:
    """Say nothing about progress."""


def listed(*examples: Example) -> ListDataset:
    return ListDataset("train", examples, Ledger())


@pytest.fixture
def teacher(pipeline: Pipeline, config: RunConfig) -> Pipeline:
    """A pipeline that reads English alone."""
    pipeline.config = replace(config, data=replace(config.data, languages=("en",)))
    return pipeline


def test_captions_get_the_teachers_vectors(teacher: Pipeline, tmp_path: Path) -> None:
    """Compared with the teacher asked for each caption alone; guards against another caption's vector."""
    sets = MixedDataset({"data": listed(TWO, NONE), "more": listed(ONE)}, (1, 1), 1, 0)
    ready = attach_teacher_targets(teacher, sets, tmp_path, quiet)
    assert list(ready.parts) == ["data", "more"] and len(ready) == 3
    found = {example.id: example.inputs[TARGETS] for example in map(ready.example, range(3))}
    space = teacher.shared_space()

    def alone(text: str) -> np.ndarray:
        return space.embed_texts(teacher.model, teacher.codec, [text])[0]

    red, circle = alone("a red circle"), alone("a circle")
    np.testing.assert_allclose(found["two"][TWO.captions[0]], red, atol=1e-5)
    np.testing.assert_allclose(found["two"][TWO.captions[1]], circle, atol=1e-5)
    mean = (red + circle) / np.linalg.norm(red + circle)
    np.testing.assert_allclose(found["two"][TWO.captions[2]], mean, atol=1e-5)
    np.testing.assert_allclose(found["one"][ONE.captions[0]], alone("a blue square"), atol=1e-5)
    assert found["none"] == {}


def test_a_split_that_the_teacher_cannot_read_is_refused(teacher: Pipeline, tmp_path: Path) -> None:
    """Guards against a student that learns from nothing."""
    with pytest.raises(InputError, match="no caption in en, the teacher's languages"):
        attach_teacher_targets(teacher, listed(NONE), tmp_path, quiet)
