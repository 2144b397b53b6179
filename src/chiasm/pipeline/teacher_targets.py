"""Distillation targets: the embedding of each caption of a prepared split in the teacher's space."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.log import Progress
from chiasm.core.types import Example
from chiasm.data.dataset import Dataset, MappedDataset, examples_of
from chiasm.pipeline.feature_cache import cache_texts
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.text_targets import TARGETS, caption_targets


def attach_teacher_targets(teacher: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    """Give every example of a prepared split the teacher's `caption_targets`, under `TARGETS`.

    Args:
        teacher: a run with a contrast, for the languages of its own data.
        dataset: a split as `prepare` returns it where the image tower is frozen.
        cache: where vectors of the teacher's text tower are kept, if that is frozen.
        progress: called with (done, total, what).

    Raises:
        InputError: no caption is in a language of the teacher.
    """
    return dataset.map_parts(lambda _, part: _attach_to_part(teacher, part, cache, progress))


def _attach_to_part(teacher: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    languages = set(teacher.config.data.languages)
    captions = (caption for example in examples_of(dataset) for caption in example.captions)
    texts = list(dict.fromkeys(caption.text for caption in captions if caption.language in languages))
    if not texts:
        raise InputError(
            f"split {dataset.split!r} has no caption in {', '.join(sorted(languages))}, the teacher's languages",
            "captions in a language that the run of init_from reads, beside the new one",
            "name both in data.languages",
        )
    if teacher.config.model.text.frozen:
        cache_texts(teacher, texts, cache, progress)
    vectors = teacher.shared_space().embed_in_parts(
        teacher.model,
        teacher.codec,
        texts,
        lambda done, total: progress(done, total, "encoding captions with the teacher"),
    )
    known: dict[str, np.ndarray] = dict(zip(texts, vectors, strict=True))

    def with_targets(example: Example) -> Example:
        return replace(example, inputs={**example.inputs, TARGETS: caption_targets(example.captions, known)})

    return MappedDataset(dataset, with_targets)
