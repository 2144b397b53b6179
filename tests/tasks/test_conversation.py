"""The task conversation against transformers' own forward pass and decoding, and its properties."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, IMAGE_ID, Batch, Caption, Example, Question, Turn
from chiasm.data.image_refs import image_ref_from_array
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.models.lora import LORA_NAMES
from chiasm.pipeline.batching import input_values, make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import Query
from chiasm.tasks.conversation import Conversation, ConversationConfig
from chiasm.tasks.conversation_writing import log_likelihoods, replies
from chiasm.train.config import RunConfig

pytest.importorskip("transformers", reason="needs the extra [llm]")
from language_folders import write_folder

GREEDY = DecodingConfig(max_words=12)


def image(seed: int) -> Any:
    return image_ref_from_array(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def example(number: int, images: int = 1, **words: Any) -> Example:
    shown = tuple(image(10 * number + one) for one in range(images))
    inputs = {} if not images else {IMAGE: shown[0] if images == 1 else shown}
    return Example(f"{number}", inputs, **words)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """One, two and no images; captions, questions, a conversation of two turns, a text alone."""
    captions = (Caption("a dog runs over the snow", "en"), Caption("one dog", "en"), Caption("两只狗", "zh"))
    questions = (Question("what color is it?", ("red",)), Question("is it a dog?", ("yes",)))
    talk = (
        Turn("user", "<image> and <image>: what differs?"),
        Turn("assistant", "the color"),
        Turn("user", "which?"),
        Turn("assistant", "red and blue"),
    )
    alone = (Turn("user", "what is two plus two?"), Turn("assistant", "four"))
    return [
        example(0, captions=captions),
        example(1, captions=captions[:1], questions=questions),
        example(2, images=2, turns=talk),
        example(3, images=0, turns=alone),
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The demo's image tower before a small language model."""
    folder = write_folder(tmp_path_factory.mktemp("language") / "llama")
    demo = find_recipe("demo", tiny=True)
    tower = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    text = LanguageModelConfig(name=str(folder), max_tokens=400, lora_rank=4, precision="fp32")
    model = replace(demo.model, dim=16, image=tower, text=text)
    return replace(demo, model=model, tasks={"conversation": ConversationConfig()}, decoding=GREEDY)


@pytest.fixture(scope="module")
def pipeline(config: RunConfig, examples: list[Example]) -> Pipeline:
    """Untrained, with low-rank changes far from zero."""
    made = Pipeline.build(config, examples, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if name.endswith(LORA_NAMES) or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return made


def task_of(pipeline: Pipeline, **settings: Any) -> Conversation:
    return Conversation(ConversationConfig(**settings), pipeline.config.model)


def collated(task: Conversation, pipeline: Pipeline, some: Sequence[Example]) -> Batch:
    return make_batch(some, {task.name: task}, pipeline.codec, pipeline.config, epoch=0)


def loss_of(task: Conversation, pipeline: Pipeline, batch: Batch) -> Tensor:
    encoded = pipeline.model.encode({name: to_model_range(one, torch.float32) for name, one in batch.inputs.items()})
    return task.loss(pipeline.model, encoded, batch)["loss"]


def encoded_of(pipeline: Pipeline, some: Sequence[Example]) -> dict[str, Any]:
    return pipeline.encode(input_values(some, pipeline.config.model, 1, pipeline.resizing))


def by_hand(pipeline: Pipeline, ids: Sequence[int], images: Sequence[Any]) -> Tensor:
    """Embeddings of one row: each placeholder becomes the projected tokens of the next image."""
    language, parts, coming = pipeline.model.language, [], iter(images)
    for one in ids:
        if one == IMAGE_ID:
            tokens = pipeline.encode_images([next(coming)])
            parts.append(pipeline.model.bridge("conversation")(tokens).values[0])
        else:
            parts.append(language.embed(torch.tensor([one])))
    return torch.cat(parts)[None]


@torch.no_grad()
def test_the_loss_is_transformers_cross_entropy_over_the_assistants_words(
    pipeline: Pipeline, examples: list[Example]
) -> None:
    """Each conversation alone, through the network's own forward pass."""
    from chiasm.data.conversations import turns_of

    task = task_of(pipeline)
    total, count = 0.0, 0
    for one in examples:
        shown = one.inputs.get(IMAGE, ())
        shown = shown if isinstance(shown, tuple) else (shown,)
        for turns in turns_of(one, pipeline.config.seed, 0, 5, 8):
            spans = pipeline.codec.tokenizer.conversation(turns)  # type: ignore[attr-defined]
            logits = pipeline.model.language.network(inputs_embeds=by_hand(pipeline, spans.ids, shown)).logits[0]
            place = 0
            for token, counts in zip(spans.ids, spans.is_counted, strict=True):
                if counts:
                    total -= float(logits[place - 1].log_softmax(-1)[token])
                    count += 1
                place += 9 if token == IMAGE_ID else 1
    batch = collated(task, pipeline, examples)
    assert task.count(batch) == count
    assert float(loss_of(task, pipeline, batch)) == pytest.approx(total / count, abs=1e-4)


def test_packed_is_unpacked_in_value_and_gradient(pipeline: Pipeline, examples: list[Example]) -> None:
    found = []
    for packs in (True, False):
        task = task_of(pipeline, packs=packs)
        batch = collated(task, pipeline, examples)
        found.append((len(batch.by_task[task.name]["turn_ids"]), loss_of(task, pipeline, batch)))
        pipeline.model.zero_grad()
        found[-1][1].backward()
        found[-1] += tuple(one.grad.clone() for one in pipeline.model.parameters() if one.grad is not None)  # type: ignore[assignment]
    assert found[0][0] < found[1][0], "rows were packed"
    torch.testing.assert_close(found[0][1:], found[1][1:], atol=2e-5, rtol=1e-3)


def test_the_gradient_reaches_what_is_trained(pipeline: Pipeline, examples: list[Example]) -> None:
    task = task_of(pipeline)
    pipeline.model.zero_grad()
    loss_of(task, pipeline, collated(task, pipeline, examples)).backward()
    lacking = [
        name
        for name, one in pipeline.model.named_parameters()
        if name.startswith(("heads.conversation.", "image_encoder.")) or name.endswith(LORA_NAMES)
        if one.grad is None or not bool(one.grad.any())
    ]
    assert not lacking, lacking


@torch.no_grad()
def test_greedy_replies_are_those_of_transformers(pipeline: Pipeline, examples: list[Example]) -> None:
    """Batched with others of unequal length, from a cache, against generate alone."""
    some, tokenizer = examples[:3], pipeline.codec.tokenizer
    prompts = [
        (0, tokenizer.prompt((Turn("user", "<image>\ndescribe"),))),  # type: ignore[attr-defined]
        (1, tokenizer.prompt((Turn("user", "what color is this thing here? <image>"),))),  # type: ignore[attr-defined]
        (2, tokenizer.prompt(examples[2].turns[:3])),  # type: ignore[attr-defined]
    ]
    written = replies(pipeline.model, "conversation", tokenizer, encoded_of(pipeline, some), prompts, GREEDY)  # type: ignore[arg-type]
    for (row, ids), reply in zip(prompts, written, strict=True):
        shown = some[row].inputs[IMAGE]
        embeddings = by_hand(pipeline, ids, shown if isinstance(shown, tuple) else (shown,))
        banned = [one for one in tokenizer.special_ids if one != tokenizer.end_id]
        theirs = pipeline.model.language.network.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2]),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=tokenizer.end_id,
            pad_token_id=tokenizer.pad_id,
            suppress_tokens=banned,
        )[0].tolist()
        ours = list(reply.ids)
        assert ours[: len(theirs)] == theirs[: len(ours)], (ours, theirs)
        assert len(reply.by_token) == len(ours)


@torch.no_grad()
def test_a_replys_probability_is_the_likelihood_of_its_tokens(pipeline: Pipeline, examples: list[Example]) -> None:
    """The cached steps and one pass over the whole conversation give the same numbers."""
    from chiasm.data.tokenizers.chat import Spans

    tokenizer, encoded = pipeline.codec.tokenizer, encoded_of(pipeline, examples[:2])
    prompts = [(row, tokenizer.prompt((Turn("user", "<image>\nwhat?"),))) for row in (0, 1)]  # type: ignore[attr-defined]
    written = replies(pipeline.model, "conversation", tokenizer, encoded, prompts, GREEDY)  # type: ignore[arg-type]
    whole = [
        (row, Spans([*ids, *reply.ids], [*[False] * len(ids), *[True] * len(reply.ids)]))
        for (row, ids), reply in zip(prompts, written, strict=True)
    ]
    read = log_likelihoods(pipeline.model, "conversation", tokenizer, encoded, whole)  # type: ignore[arg-type]
    for reply, values in zip(written, read, strict=True):
        assert values == pytest.approx(reply.by_token, abs=1e-3)
        assert sum(values) == pytest.approx(reply.log_probability, abs=1e-3)


@torch.no_grad()
def test_an_image_stands_where_its_placeholder_is(pipeline: Pipeline) -> None:
    """Exchanging two images changes the likelihood; naming them in the other order as well undoes it."""
    one, two, tokenizer = image(1), image(2), pipeline.codec.tokenizer
    turns = (Turn("user", "a <image> b <image> which?"), Turn("assistant", "the first"))
    spans = tokenizer.conversation(turns)  # type: ignore[attr-defined]
    values = []
    for shown in ((one, two), (two, one)):
        encoded = encoded_of(pipeline, [Example("x", {IMAGE: shown}), Example("y", {IMAGE: one})])
        (found,) = log_likelihoods(pipeline.model, "conversation", tokenizer, encoded, [(0, spans)])  # type: ignore[arg-type]
        values.append(found)
        by_them = pipeline.model.language.network(inputs_embeds=by_hand(pipeline, spans.ids, shown)).logits[0, -3]
        assert by_them.isfinite().all()
    assert values[0] != pytest.approx(values[1], abs=1e-6)


def test_too_long_conversations_are_refused_by_file_and_row(pipeline: Pipeline) -> None:
    from chiasm.core.types import Source

    task = Conversation(
        ConversationConfig(), replace(pipeline.config.model, text=replace(pipeline.config.model.text, max_tokens=40))
    )
    long = example(7, captions=(Caption("a dog " * 30, "en"),))
    long = replace(long, source=Source("data.jsonl", 7))
    with pytest.raises(InputError, match=r"data.jsonl:7: a conversation of \d+ tokens, 9 for each image"):
        task.check_examples(pipeline.model, pipeline.codec, [long])


@pytest.mark.parametrize("text", ["<image> what?", "<image> <image> <image> what?"])
def test_another_number_of_placeholders_than_of_images_is_refused(pipeline: Pipeline, text: str) -> None:
    turns = (Turn("user", text), Turn("assistant", "that"))
    with pytest.raises(InputError, match=r"\d <image> and 2 images"):
        task_of(pipeline).check_examples(pipeline.model, pipeline.codec, [example(8, images=2, turns=turns)])


@torch.no_grad()
def test_yes_and_no_are_compared_by_likelihood(pipeline: Pipeline, examples: list[Example]) -> None:
    task, encoded = task_of(pipeline), encoded_of(pipeline, examples[:2])
    tokenizer = pipeline.codec.tokenizer
    (pair,) = task.yes_no(pipeline.model, pipeline.codec, encoded, [Query(1, "is it a dog?", "en")])
    from chiasm.data.conversations import prompt_turns

    ids = tokenizer.prompt(prompt_turns("question", 1, "en", "is it a dog?"))  # type: ignore[attr-defined]
    embeddings = by_hand(pipeline, ids, [examples[1].inputs[IMAGE]])
    logits = pipeline.model.language.network(inputs_embeds=embeddings).logits[0, -1].log_softmax(-1)
    for side, words in zip(pair, (("yes", "Yes"), ("no", "No")), strict=True):
        first = {tokenizer.pieces(word)[0] for word in words}
        assert side == pytest.approx(float(logits[sorted(first)].logsumexp(0)), abs=1e-4)


def test_a_run_folder_gives_the_same_answers(pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Low-rank changes stay beside the weights, and the folder of the language model is no longer needed."""
    pipeline.save(tmp_path / "run", examples[1], {})
    again = Pipeline.load(tmp_path / "run", torch.device("cpu"))
    queries = [Query(0, language="en"), Query(1, "what color is it?")]
    ours, theirs = (
        one.tasks["conversation"].predict(one.model, one.codec, encoded_of(one, examples[:2]), queries)
        for one in (pipeline, again)
    )
    assert [one.answer for one in ours] == [one.answer for one in theirs]
    assert again.model.language.network is not pipeline.model.language.network
