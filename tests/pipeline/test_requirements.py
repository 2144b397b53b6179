"""What a task asks of the model is asked before anything is trained."""

from dataclasses import replace

import pytest
import torch

from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import TaskConfig
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.texts import CaptionConfig
from chiasm.train.config import RunConfig

WORDS = {"masked_language_modelling": MaskingConfig()}


@pytest.mark.parametrize(
    ("tasks", "text", "model", "said"),
    [
        (WORDS, {"summary_tokens": 4}, {}, "summary_tokens 4"),
        (WORDS, {"summary_tokens": 0}, {"fusion": "film"}, "fusion 'film'"),
        (WORDS, {"summary_tokens": 0}, {"fusion": "sum"}, "fusion 'sum'"),
        ({"permutation_language_modelling": CaptionConfig()}, {"summary_tokens": 0}, {}, "kind 'transformer'"),
        ({"matching": MatchingConfig(word_patch_weight=0.1)}, {"summary_tokens": 0}, {}, "word_patch_weight 0.1"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    config: RunConfig,
    examples: list[Example],
    tasks: dict[str, TaskConfig],
    text: dict[str, int],
    model: dict[str, str],
    said: str,
) -> None:
    """Guards against a traceback in the middle of a run, and against a term that is silently zero."""
    shaped = replace(config.model, text=replace(config.model.text, **text), **model)  # type: ignore[arg-type]
    wrong = replace(config, tasks=tasks, model=shaped)
    with pytest.raises(InputError, match=said):
        Pipeline.build(wrong, examples, torch.device("cpu"))


def test_a_model_that_fits_is_built(config: RunConfig, examples: list[Example]) -> None:
    """The null control: the same tasks on a model that keeps words."""
    changes = ["text.summary_tokens=0", "text.kind=two_stream", "fusion=merged_attention"]
    model = override(config.model, changes)
    tasks = {
        "permutation_language_modelling": CaptionConfig(),
        "masked_language_modelling": MaskingConfig(),
        "matching": MatchingConfig(word_patch_weight=0.1),
    }
    built = Pipeline.build(replace(config, tasks=tasks, model=model), examples, torch.device("cpu"))
    assert list(built.tasks) == list(tasks)
