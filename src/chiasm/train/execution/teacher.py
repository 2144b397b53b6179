"""Models that a run learns from beside its data: each encodes a batch's inputs for tasks with `distil`."""

from collections.abc import Mapping
from pathlib import Path

import torch

from chiasm.core.errors import InputError
from chiasm.core.run_folder import verify_folder
from chiasm.core.types import InputValue
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Teacher


class TeacherModel:
    """A model that is not trained by its own gradient.

    Args:
        model: in evaluation mode, without gradients, in the number format of the model that is trained.
    """

    def __init__(self, model: VisionLanguageModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, InputValue]) -> Teacher:
        """Encode a batch's inputs."""
        return Teacher(self.model, self.model.encode(inputs))


def given_teacher(folder: Path, student: Pipeline, dtype: torch.dtype) -> TeacherModel:
    """The model of a run folder, which a smaller one learns from (Hinton et al. 2015, "Distilling the Knowledge").

    Args:
        folder: `train.teacher`.
        student: what is trained. It reads the same inputs: its batches go to both.
        dtype: number format of the student's computation.

    Raises:
        InputError: the folder is no whole run, or the teacher reads other inputs or has other answers than the student.
    """
    verify_folder(folder, "run")
    teacher = Pipeline.load(folder, student.device)
    learners = [name for name, task in student.config.tasks.items() if task.learns_from_teacher]
    said = {words for name in learners for words in student.tasks[name].vocabularies}
    ours, theirs = student.config.model, teacher.config.model
    differs = {
        **{f"a task {name}": name not in teacher.tasks for name in learners},
        "the tokenizer": student.codec.tokenizer.to_json() != teacher.codec.tokenizer.to_json(),
        "the image size or its resizing": student.resizing != teacher.resizing,
        "the frozen image tower": (ours.image.frozen or theirs.image.frozen) and ours.image != theirs.image,
        "the frozen text tower": (ours.text.frozen or theirs.text.frozen) and ours.text != theirs.text,
        **{words: student.codec.vocabularies.get(words) != teacher.codec.vocabularies.get(words) for words in said},
    }
    found = next((what for what, is_so in differs.items() if is_so), "")
    if found:
        raise InputError(
            f"train.teacher {folder} differs from the run in {found}",
            "a teacher with the run's tokenizer, image size, frozen towers, answers and tasks",
            f"--set init_from={folder}, which gives the tokenizer and weights of equal shape; or another teacher",
        )
    return TeacherModel(teacher.model.to(dtype))
