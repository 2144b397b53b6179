"""What is measured of a speaker, in each view and where one metric is wanted."""

import math
from dataclasses import replace

import pytest
import torch

from chiasm.core.types import Example
from chiasm.evaluate.evaluator import evaluate
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation import Conversation, ConversationConfig
from chiasm.tasks.conversation_scoring import REPLY_PROBABILITY


def test_all_scores_of_a_split_with_captions_questions_and_conversations(
    speaker: Pipeline, spoken: list[Example]
) -> None:
    scores = evaluate(speaker, spoken).scores
    named = {"CIDEr", "vqa_accuracy", REPLY_PROBABILITY, "perplexity_ratio", "text_questions", "chair_s"}
    assert named <= set(scores), sorted(scores)
    assert 0 < scores[REPLY_PROBABILITY].value < 1
    blind = evaluate(speaker, spoken, "no_text").scores
    assert "vqa_accuracy" in blind and "CIDEr" not in blind and REPLY_PROBABILITY not in blind


def test_the_wanted_likelihood_is_measured_alone_and_equal(speaker: Pipeline, spoken: list[Example]) -> None:
    whole = evaluate(speaker, spoken).scores
    brief = evaluate(speaker, spoken, wanted=REPLY_PROBABILITY).scores
    assert set(brief) == {REPLY_PROBABILITY, "perplexity_ratio"}
    assert brief[REPLY_PROBABILITY] == whole[REPLY_PROBABILITY]


def test_a_stage_that_does_not_write_measures_the_likelihood(speaker: Pipeline, spoken: list[Example]) -> None:
    silent = Conversation(ConversationConfig(writes=False), speaker.config.model)
    tasks, speaker.tasks = speaker.tasks, {"conversation": silent}
    try:
        assert set(evaluate(speaker, spoken).scores) == {REPLY_PROBABILITY, "perplexity_ratio"}
    finally:
        speaker.tasks = tasks


@torch.no_grad()
def test_the_likelihood_is_the_mean_over_texts_of_geometric_means(speaker: Pipeline, spoken: list[Example]) -> None:
    """Against the task's own likelihoods, one example at a time; the items of a paired test have this mean."""
    from speaking import encoded_of

    task = Conversation(ConversationConfig(), speaker.config.model)
    values = []
    for one in spoken:
        for _, tokens in task.reference_likelihoods(speaker.model, speaker.codec, encoded_of(speaker, [one]), [one]):
            values.append(math.exp(sum(tokens) / len(tokens)))
    found = evaluate(speaker, spoken, wanted=REPLY_PROBABILITY)
    assert found.scores[REPLY_PROBABILITY].value == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert found.items[REPLY_PROBABILITY].values.mean() == pytest.approx(found.scores[REPLY_PROBABILITY].value)


def test_pope_of_zero_images_asks_nothing(speaker: Pipeline, spoken: list[Example]) -> None:
    quiet = Conversation(replace(ConversationConfig(), pope_images=0), speaker.config.model)
    tasks, speaker.tasks = speaker.tasks, {"conversation": quiet}
    try:
        assert not [name for name in evaluate(speaker, spoken).scores if name.startswith("pope")]
    finally:
        speaker.tasks = tasks
