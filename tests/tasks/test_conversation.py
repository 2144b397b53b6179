"""The task conversation against transformers' own forward pass, and its properties."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, IMAGE_ID, Caption, Example, Source, Turn
from chiasm.data.conversations import prompt_turns, turns_of
from chiasm.data.tokenizers.chat_template import PLAIN_TEMPLATE
from chiasm.models.lora import LORA_NAMES
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query
from chiasm.tasks.conversation import Conversation, ConversationConfig
from speaking import by_hand, collated, encoded_of, example, loss_of, task_of


@torch.no_grad()
def test_the_loss_is_transformers_cross_entropy_over_the_assistants_words(
    speaker: Pipeline, spoken: list[Example]
) -> None:
    """Each conversation alone, through the network's own forward pass."""
    task = task_of(speaker)
    total, count = 0.0, 0
    for one in spoken:
        shown = one.inputs.get(IMAGE, ())
        shown = shown if isinstance(shown, tuple) else (shown,)
        for turns in turns_of(one, speaker.config.seed, 0, 5, 8):
            spans = speaker.codec.tokenizer.conversation(turns)  # type: ignore[attr-defined]
            logits = speaker.model.language.network(inputs_embeds=by_hand(speaker, spans.ids, shown)).logits[0]
            place = 0
            for token, counts in zip(spans.ids, spans.is_counted, strict=True):
                if counts:
                    total -= float(logits[place - 1].log_softmax(-1)[token])
                    count += 1
                place += 9 if token == IMAGE_ID else 1
    batch = collated(task, speaker, spoken)
    assert task.count(batch) == count
    assert float(loss_of(task, speaker, batch)) == pytest.approx(total / count, abs=1e-4)


def test_packed_is_unpacked_in_value_and_gradient(speaker: Pipeline, spoken: list[Example]) -> None:
    found = []
    for packs in (True, False):
        task = task_of(speaker, packs=packs)
        batch = collated(task, speaker, spoken)
        found.append((len(batch.by_task[task.name]["turn_ids"]), loss_of(task, speaker, batch)))
        speaker.model.zero_grad()
        found[-1][1].backward()
        found[-1] += tuple(one.grad.clone() for one in speaker.model.parameters() if one.grad is not None)  # type: ignore[assignment]
    assert found[0][0] < found[1][0], "rows were packed"
    torch.testing.assert_close(found[0][1:], found[1][1:], atol=2e-5, rtol=1e-3)


def test_the_gradient_reaches_what_is_trained(speaker: Pipeline, spoken: list[Example]) -> None:
    task = task_of(speaker)
    speaker.model.zero_grad()
    loss_of(task, speaker, collated(task, speaker, spoken)).backward()
    lacking = [
        name
        for name, one in speaker.model.named_parameters()
        if name.startswith(("heads.conversation.", "image_encoder.")) or name.endswith(LORA_NAMES)
        if one.grad is None or not bool(one.grad.any())
    ]
    assert not lacking, lacking


def test_too_long_conversations_are_refused_by_file_and_row(speaker: Pipeline) -> None:
    task = Conversation(
        ConversationConfig(), replace(speaker.config.model, text=replace(speaker.config.model.text, max_tokens=40))
    )
    long = example(7, captions=(Caption("a dog " * 30, "en"),))
    long = replace(long, source=Source("data.jsonl", 7))
    with pytest.raises(InputError, match=r"data.jsonl:7: a conversation of \d+ tokens, 9 for each image"):
        task.check_examples(speaker.model, speaker.codec, [long])


@pytest.mark.parametrize("text", ["<image> what?", "<image> <image> <image> what?"])
def test_another_number_of_placeholders_than_of_images_is_refused(speaker: Pipeline, text: str) -> None:
    turns = (Turn("user", text), Turn("assistant", "that"))
    with pytest.raises(InputError, match=r"\d <image> and 2 images"):
        task_of(speaker).check_examples(speaker.model, speaker.codec, [example(8, images=2, turns=turns)])


@torch.no_grad()
def test_yes_and_no_are_compared_by_likelihood(speaker: Pipeline, spoken: list[Example]) -> None:
    task, encoded = task_of(speaker), encoded_of(speaker, spoken[:2])
    tokenizer = speaker.codec.tokenizer
    (pair,) = task.yes_no(speaker.model, speaker.codec, encoded, [Query(1, "is it a dog?", "en")])
    ids = tokenizer.prompt(prompt_turns("question", 1, "en", "is it a dog?"))  # type: ignore[attr-defined]
    embeddings = by_hand(speaker, ids, [spoken[1].inputs[IMAGE]])
    logits = speaker.model.language.network(inputs_embeds=embeddings).logits[0, -1].log_softmax(-1)
    for side, words in zip(pair, (("yes", "Yes"), ("no", "No")), strict=True):
        first = {tokenizer.pieces(word)[0] for word in words}
        assert side == pytest.approx(float(logits[sorted(first)].logsumexp(0)), abs=1e-4)


def test_a_run_folder_gives_the_same_answers(speaker: Pipeline, spoken: list[Example], tmp_path: Path) -> None:
    """Low-rank changes stay beside the weights, and the folder of the language model is no longer needed."""
    speaker.save(tmp_path / "run", spoken[1], {})
    again = Pipeline.load(tmp_path / "run", torch.device("cpu"))
    queries = [Query(0, language="en"), Query(1, "what color is it?")]
    ours, theirs = (
        one.tasks["conversation"].predict(one.model, one.codec, encoded_of(one, spoken[:2]), queries)
        for one in (speaker, again)
    )
    assert [one.answer for one in ours] == [one.answer for one in theirs]
    assert again.model.language.network is not speaker.model.language.network


def test_a_model_that_was_not_trained_to_converse_rehearses_nothing(
    speaker: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its conversations would be in a template that it has never seen."""
    task, tokenizer = task_of(speaker, rehearsed=2), speaker.codec.chat_tokenizer
    monkeypatch.setattr("chiasm.tasks.conversation.rehearsed", lambda *_: ["written"])
    for form, found in (
        (tokenizer.form, ["written"]),
        (replace(tokenizer.form, template=PLAIN_TEMPLATE), ()),
        (replace(tokenizer.form, wordings={"caption": ""}), ()),
    ):
        monkeypatch.setattr(tokenizer, "form", form)
        assert task.own_conversations(speaker.model, speaker.codec, 0, lambda *_: None) == found
