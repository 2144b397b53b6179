"""Which heads of a model the tasks of a run need."""

from chiasm.models.vision_language import Parts
from chiasm.pipeline.config import PipelineConfig
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Codec
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.hidden_words import MaskedLanguageModelling, PermutationLanguageModelling
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering


def parts_of(config: PipelineConfig, codec: Codec, learned_weights: tuple[str, ...] = ()) -> Parts:
    """Which heads the tasks need; `learned_weights` are the tasks whose losses are weighed by a learned variance."""
    tasks = build_tasks(config.tasks, config.model)
    questions = [task for task in tasks.values() if isinstance(task, VisualQuestionAnswering)]
    is_written = any(task.objective == "generate" for task in questions)
    hidden = {MaskedLanguageModelling.name, PermutationLanguageModelling.name}
    return Parts(
        vocabulary=codec.tokenizer.vocabulary,
        answers=0 if is_written else len(codec.answers),
        classes=len(codec.classes),
        contrast=tasks[Retrieval.name].objective if Retrieval.name in tasks else "",
        captions=Captioning.name in tasks,
        written_answers=is_written,
        matching=Matching.name in tasks,
        word_prediction=bool(hidden & set(tasks)),
        learned_weights=learned_weights,
    )
