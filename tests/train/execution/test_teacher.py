"""A given teacher: the weights of its folder, without gradients; runs that learn are in runs/test_distillation.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.execution.teacher import given_teacher

PIXELS = 2


def learning(pipeline: Pipeline) -> Pipeline:
    """The same, with tasks that learn from a teacher."""
    tasks = {"retrieval": RetrievalConfig(distil=0.5), "vqa": VqaConfig(distil=0.5)}
    pipeline.config = replace(pipeline.config, tasks=tasks)
    return pipeline


def test_it_encodes_as_the_run_in_the_folder(pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a teacher that is the student, one in training mode, and gradients that reach it."""
    pipeline.save(tmp_path / "run", examples[0], {})
    size = pipeline.config.model.image.shape_px
    pixels = torch.rand(PIXELS, 3, *size)
    expected = pipeline.model.eval().encode({IMAGE: pixels})[IMAGE].pooled
    student = learning(pipeline)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.zero_()
    teacher = given_teacher(tmp_path / "run", student, torch.float32)
    found = teacher.encode({IMAGE: pixels})
    torch.testing.assert_close(found.encoded[IMAGE].pooled, expected.detach())
    assert not found.encoded[IMAGE].pooled.requires_grad and not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    short = given_teacher(tmp_path / "run", student, torch.bfloat16)
    assert {one.dtype for one in short.model.parameters()} == {torch.bfloat16}


def test_other_answers_are_refused(pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against soft answers whose rows mean other words."""
    pipeline.save(tmp_path / "run", examples[0], {})
    student = learning(pipeline)
    student.codec.vocabularies["answers"] = tuple(reversed(student.codec.vocabularies["answers"]))
    with pytest.raises(InputError, match="answers"):
        given_teacher(tmp_path / "run", student, torch.float32)
    student.config = replace(student.config, tasks={"retrieval": RetrievalConfig(distil=0.5)})
    given_teacher(tmp_path / "run", student, torch.float32)  # similarities do not depend on answers
