"""The objective "words" of the task conversation: which words count for which example, and what it trains."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from chiasm.core.types import IMAGE, Example
from chiasm.data.conversations import turns_of
from chiasm.models.lora import LORA_NAMES
from chiasm.objectives.word_mixture import word_mixture
from chiasm.pipeline.pipeline import Pipeline
from speaking import collated, encoded_of, loss_of, task_of


def test_the_words_are_what_the_assistant_says_of_each_example(speaker: Pipeline, spoken: list[Example]) -> None:
    """Guards against words of the question, and words of a neighbour in the batch."""
    task = task_of(speaker, objective="words")
    said = [Counter[int]() for _ in spoken]
    for row, one in enumerate(spoken):
        for turns in turns_of(one, speaker.config.seed, 0, 5, 8):
            spans = speaker.codec.tokenizer.conversation(turns)  # type: ignore[attr-defined]
            said[row].update(token for token, counts in zip(spans.ids, spans.is_counted, strict=True) if counts)
    ids = sorted(set().union(*said))
    counts = torch.tensor([[row[token] for token in ids] for row in said]).float()
    encoded = encoded_of(speaker, spoken)
    image = encoded[IMAGE]
    most = 1 if image.number is None else int(image.number.max()) + 1
    rows = [(row, number) for row in range(len(spoken)) for number in range(most)]
    length = image.values.shape[1] // most
    kept = [(row, number) for row, number in rows if bool(image.is_real[row, number * length])]
    values = torch.stack([image.values[row, number * length : (number + 1) * length] for row, number in kept])
    bridge = speaker.model.bridge(task.name)
    tokens = bridge.projector.change(bridge.projector.norm(values))  # type: ignore[operator, union-attr]
    tokens = tokens if bridge.norm is None else bridge.norm(tokens)
    expected = word_mixture(
        tokens,
        torch.ones(tokens.shape[:2], dtype=torch.bool),
        torch.tensor([row for row, _ in kept]),
        speaker.model.language.embed(torch.tensor(ids)),
        counts,
    )["loss"]
    found = loss_of(task, speaker, collated(task, speaker, spoken))
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_language_model_gets_no_gradient(speaker: Pipeline, spoken: list[Example]) -> None:
    """Guards against a pass through the language model, which this objective saves."""
    task = task_of(speaker, objective="words")
    speaker.model.zero_grad()
    loss_of(task, speaker, collated(task, speaker, spoken)).backward()
    moved = {name for name, one in speaker.model.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert any(name.startswith("heads.conversation.") for name in moved)
    assert not any(name.endswith(LORA_NAMES) or name.startswith("text_encoder.") for name in moved)


def test_texts_without_images_teach_the_bridge_nothing(speaker: Pipeline, spoken: list[Example]) -> None:
    """Guards against an error, and a gradient, in a batch of plain conversations."""
    task = task_of(speaker, objective="words")
    plain = [replace(one, inputs={}, captions=()) for one in spoken if one.questions]
    assert plain
    speaker.model.zero_grad()
    loss = loss_of(task, speaker, collated(task, speaker, plain))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(one.grad is not None and bool(one.grad.any()) for one in speaker.model.parameters())
