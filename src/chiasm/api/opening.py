"""Opening a trained run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from chiasm.api.overrides import Overrides, Place, assignments, check_settable
from chiasm.core.config import override
from chiasm.data.config import DataConfig
from chiasm.models.decoding import check_decoding
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.engine import Model
from chiasm.serve.engine import load as open_model

EXECUTION = "model.execution="
"""The one key of the model that a trained run may be opened with."""


def load(run: Place, *, overrides: Overrides | None = None, **keys: object) -> Model:
    """Open a run folder, verify all its files, and compare its outputs for the stored example with the saved ones.

    Example:
        >>> model = chiasm.load("runs/demo", decoding__method="beam")
        >>> model.tasks
        ('retrieval', 'vqa', 'captioning')

    Args:
        run: a run folder; or a folder in the layout of Hugging Face or open_clip (docs/checkpoints.md), where nothing
            is downloaded; or the word "starter", which opens the packaged towers joined by ImageNet's classes.
        overrides: keys of `decoding`, and `model.execution`, with dots -> values.
        **keys: the same with two underscores for each dot, such as `decoding__method="beam"`.

    Raises:
        InputError: missing, unfinished, damaged, of another format version, or of an architecture not known here; or a
            key that a trained model cannot change.
    """
    typed = assignments(overrides, keys)
    check_settable(typed, ("decoding.", EXECUTION))
    model = open_model(run, execution_in(typed))
    change(model.pipeline, model.pipeline.config.data, typed)
    return model


def execution_in(typed: Sequence[str]) -> str:
    """The value of `model.execution` among assignments; "" where there is none."""
    return next((one.removeprefix(EXECUTION) for one in reversed(typed) if one.startswith(EXECUTION)), "")


def change(pipeline: Pipeline, data: DataConfig, typed: Sequence[str]) -> None:
    """Set the data config of a trained pipeline, and apply `key=value` texts to its data, decoding and tasks.

    Raises:
        InputError: a value out of its range, or a key of a task that training has fixed.
    """
    tasks = pipeline.config.tasks
    free = tuple(f"tasks.{name}.{key}" for name, task in tasks.items() for key in task.evaluation_keys)
    of_tasks = [one for one in typed if one.startswith("tasks.")]
    check_settable(of_tasks, tuple(key + mark for key in free for mark in "=."))
    config = override(replace(pipeline.config, data=data), typed)
    check_decoding(config.decoding, config.model.text.max_tokens)
    for name, task in config.tasks.items():
        task.check(f"tasks.{name}")
    _set(pipeline, config)


@contextmanager
def unchanged(*models: Model | None) -> Iterator[None]:
    """Restore the data, decoding and task configs of the models at the end of the block."""
    pipelines = [one.pipeline for one in models if one]
    kept = [one.config for one in pipelines]
    try:
        yield
    finally:
        for pipeline, config in zip(pipelines, kept, strict=True):
            _set(pipeline, config)


def _set(pipeline: Pipeline, config: PipelineConfig) -> None:
    pipeline.config, pipeline.codec.decoding = config, config.decoding
    for name, task in pipeline.tasks.items():
        task.config = config.tasks[name]
