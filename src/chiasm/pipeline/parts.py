"""The heads and shared space that the tasks of a run need in its model."""

from chiasm.models.vision_language import Parts
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks import TASKS, build_tasks
from chiasm.tasks.codec import Codec


def parts_of(config: PipelineConfig, codec: Codec, learned_weights: tuple[str, ...] = ()) -> Parts:
    """Heads and shared space of all tasks; heads are built in the order of the table of tasks.

    `learned_weights` are the tasks whose losses are weighed by a learned variance.
    """
    tasks, order = build_tasks(config.tasks, config.model), list(TASKS)
    heads = {name: tasks[name].head(codec) for name in sorted(tasks, key=order.index)}
    return Parts(
        vocabulary=codec.tokenizer.vocabulary,
        contrast=next((task.contrast for task in tasks.values() if task.contrast), ""),
        heads={name: head for name, head in heads.items() if head is not None},
        learned_weights=learned_weights,
    )
