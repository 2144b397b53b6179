"""Every whole network around a language model against transformers, and against itself computed in other ways."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")
from vlm_folders import (
    Said,
    asked_about,
    encoded,
    logits_of,
    pictures,
    predictions_of,
    replies_of,
    reply_by_transformers,
    reply_of,
)
from whole_networks import WHOLE, Whole

import chiasm
from chiasm.core.types import Turn
from chiasm.data.conversations import prompt_turns
from chiasm.models.decoding import DecodingConfig
from chiasm.tasks.base import Query
from chiasm.tasks.conversation_writing import log_likelihoods

CONVERSATION = (
    Turn("user", "<image>\nwhat is there"),
    Turn("assistant", "two dogs"),
    Turn("user", "<image>\n<image>\nand here"),
    Turn("assistant", "snow"),
    Turn("user", "why"),
)
SHAPES = ((40, 60), (20, 100), (90, 50))


class Opened(NamedTuple):
    """A folder, opened by both."""

    whole: Whole
    folder: Path
    network: Any
    model: Any

    def given(self, images: list[Any], said: Said) -> dict[str, torch.Tensor]:
        return self.whole.given(self.folder, images, said)

    def asked(self) -> list[tuple[list[Any], Said]]:
        """Prompts of unequal length: one image, several, several turns, and text alone."""
        found: list[tuple[list[Any], Said]] = [(pictures((40, 60)), "what is there"), ([], "who")]
        found.append((pictures((33, 32), (20, 100)), "two green dogs"))
        if self.whole.turns == "as its template":
            found.append((pictures(*SHAPES), CONVERSATION))
        return found


@pytest.fixture(scope="module", params=list(WHOLE))
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("network")
    network = WHOLE[request.param].write(folder)
    return Opened(WHOLE[request.param], folder, network, chiasm.load(folder))


def test_logits_are_those_of_transformers(opened: Opened) -> None:
    """Guards pixels, image tokens and the words around them, positions, masks, template, start token."""
    for images, said in opened.asked():
        with torch.no_grad():
            reader = opened.network if images else opened.whole.reader(opened.network)
            theirs = reader(**opened.given(images, said)).logits[0]
        torch.testing.assert_close(logits_of(opened.model, images, said), theirs, atol=1e-4, rtol=1e-4)


def test_greedy_text_is_that_of_transformers_alone_and_in_a_batch(opened: Opened) -> None:
    """Guards cached keys and values, positions after an image, padding, and the token that ends a reply."""
    theirs = []
    for images, said in opened.asked():
        reader = opened.network if images else opened.whole.reader(opened.network)
        theirs.append(reply_by_transformers(reader, opened.model, opened.given(images, said), 12))
    assert len(set(theirs)) == len(theirs)
    assert [reply_of(opened.model, images, said, 12) for images, said in opened.asked()] == theirs
    assert replies_of(opened.model, opened.asked(), 12) == theirs


def test_a_conversation_that_goes_on_is_the_whole_one(opened: Opened) -> None:
    """Guards the store of what was read: a later turn, with and without images, is read after the kept positions."""
    if opened.whole.turns == "one":
        pytest.skip("answers one prompt")
    images = pictures(*SHAPES)
    messages: list[dict[str, Any]] = []
    turns: tuple[Turn, ...] = ()
    shown = 0
    for text, more in (("what is there", 1), ("and here", 2), ("why", 0)):
        parts = [{"type": "image", "image": one} for one in images[shown : shown + more]]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
        shown += more
        turns += (Turn("user", "<image>\n" * more + text),)
        said = opened.model.chat(messages, max_tokens=8)
        assert said.answer == reply_of(opened.model, images[:shown], turns, 8)
        messages.append({"role": "assistant", "content": said.answer or "."})
        turns += (Turn("assistant", said.answer or "."),)


def test_a_streamed_reply_is_the_whole_one_and_a_prompt_is_read_once(opened: Opened) -> None:
    """Guards the continuous decoder against `predict`, and what it takes from the store."""
    image = pictures((40, 60))[0]
    for text in ("what is there", "what"):
        expected = predictions_of(opened.model, [([image], text)], 8)[0]
        for _ in range(2):
            said = opened.model.chat(text, image, max_tokens=8)
            assert said.answer == expected.answer
            mine, theirs = ([value for _, value in one.evidence["tokens"]][:7] for one in (said, expected))
            assert mine == pytest.approx(theirs, abs=1e-5)


OWN_WORDS = {
    "PaliGemma": ("caption zh", "answer en what is there"),
    "PaliGemma 2": ("caption zh", "answer en what is there"),
    "Blip2": ("", "Question: what is there Answer:"),
}


def test_captions_and_questions_are_asked_as_the_network_was_trained(opened: Opened) -> None:
    """Guards against the wording of another model, and against a network with a chat template that is asked so too."""
    name = next(name for name, whole in WHOLE.items() if whole is opened.whole)
    pipeline, image = opened.model.pipeline, pictures((40, 60))[0]
    tokenizer = pipeline.codec.tokenizer
    default = prompt_turns("caption", 1, "zh")[0].text, prompt_turns("question", 1, "en", "what is there")[0].text
    own = tuple(f"<image>\n{words}" for words in OWN_WORDS[name]) if name in OWN_WORDS else default
    seen = encoded(opened.model, [[image]])
    queries = [Query(0, "", "zh"), Query(0, "what is there", "en")]
    codec = replace(pipeline.codec, decoding=DecodingConfig(max_words=6))
    found = pipeline.tasks["conversation"].predict(pipeline.model, codec, seen, queries)
    given = [Query(0, turns=(Turn("user", words),)) for words in own]
    expected = pipeline.tasks["conversation"].predict(pipeline.model, codec, seen, given)
    for one, other in zip(found, expected, strict=True):
        (mine, certain), (theirs, expected_certain) = (zip(*it.evidence["tokens"], strict=True) for it in (one, other))
        assert mine == theirs
        assert certain == pytest.approx(expected_certain, abs=1e-5)  # a batch of captions, one of answers: other sums
    kept = tokenizer.from_json(tokenizer.to_json(), tokenizer.max_tokens)
    assert kept.form.wordings == tokenizer.form.wordings and bool(kept.form.wordings) == (name in OWN_WORDS)


def test_packed_likelihoods_are_those_of_each_conversation_alone(opened: Opened) -> None:
    """Guards places and masks of continuations that share the image's positions."""
    pipeline = opened.model.pipeline
    tokenizer = pipeline.codec.tokenizer
    seen = encoded(opened.model, [pictures((40, 60)), pictures((90, 50))])
    about = [
        (row, tokenizer.conversation((*asked_about(1, text), Turn("assistant", answer))))
        for row in (0, 1)
        for text, answer in (("what", "a dog"), ("what", "snow"), ("who runs", "two dogs"))
    ]
    together = log_likelihoods(pipeline.model, "conversation", tokenizer, seen, about)
    for one, packed in zip(about, together, strict=True):
        alone = log_likelihoods(pipeline.model, "conversation", tokenizer, seen, [one])[0]
        assert packed == pytest.approx(alone, abs=1e-4)


def test_every_weight_has_its_name_of_transformers(opened: Opened) -> None:
    """Guards the way back: names and numbers are those of the network that was read."""
    found, expected = opened.model.pipeline.model.hugging_face_tensors(), opened.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
