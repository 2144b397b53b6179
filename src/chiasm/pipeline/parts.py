"""The heads of a model, as the tasks of a run ask for them."""

from typing import Any

from chiasm.models.vision_language import Parts
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks import build_tasks
from chiasm.tasks.codec import Codec


def parts_of(config: PipelineConfig, codec: Codec, learned_weights: tuple[str, ...] = ()) -> Parts:
    """Heads of all tasks; `learned_weights` are the tasks whose losses are weighed by a learned variance."""
    asked: dict[str, Any] = {}
    for task in build_tasks(config.tasks, config.model).values():
        asked |= task.parts(codec)
    return Parts(vocabulary=codec.tokenizer.vocabulary, learned_weights=learned_weights, **asked)
