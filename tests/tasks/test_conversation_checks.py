"""Conversations are checked before the first step, most of them without being tokenized."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_ID, Caption, Example, Question, Source, Turn
from chiasm.data.tokenizers.chat import ChatTokenizer, Spans
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation_checks import ConversationLengths, check_conversations
from speaking import example

IMAGE_TOKENS = 5


@pytest.fixture(scope="module")
def normalizing(speaker: Pipeline) -> ChatTokenizer:
    """One whose ids are of the compatibility composition in lower case, which may be many times the text's bytes."""
    stored = json.loads(speaker.codec.chat_tokenizer.to_json())
    stored["tokenizer"]["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    return ChatTokenizer.from_json(json.dumps(stored), 10_000)


@given(asked=st.text(max_size=40), said=st.text(max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_bound_is_never_below_the_exact_number(normalizing: ChatTokenizer, asked: str, said: str) -> None:
    """Guards against a conversation that is too long and passes, also where normalisation lengthens its text."""
    lengths = ConversationLengths(normalizing, IMAGE_TOKENS)
    lengths.exact([Turn("user", "<image>a"), Turn("assistant", "b")])
    for text in (asked, f"{asked}\ufdfa\u0130"):
        turns = [Turn("user", f"<image>{text}"), Turn("assistant", f"w{said}")]
        spans = normalizing.conversation(turns)
        exact = len(spans.ids) + (IMAGE_TOKENS - 1) * spans.ids.count(IMAGE_ID)
        bound = lengths.bound(turns)
        assert bound is not None and exact <= bound, (exact, bound)
        assert lengths.exact(turns) == (exact, True)


def test_only_what_may_be_too_long_is_tokenized(speaker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against minutes before the first step, and against another form that is taken for a known one."""
    tokenizer, seen = speaker.codec.chat_tokenizer, list[Sequence[Turn]]()

    def conversation(turns: Sequence[Turn]) -> Spans:
        seen.append(turns)
        return ChatTokenizer.conversation(tokenizer, turns)

    monkeypatch.setattr(tokenizer, "conversation", conversation)
    asked = (Question("what color is it?", ("red",)), Question("is it a dog?", ("yes",)))
    captions = (Caption("a dog runs", "en"),)
    examples = [example(number, captions=captions, questions=asked) for number in range(30)]
    alone = (Turn("user", "two plus two?"), Turn("assistant", "four"))
    talks = [example(40 + number, images=0, turns=alone) for number in range(5)]
    longer = replace(example(50, captions=(Caption("a dog " * 60, "en"),)), source=Source("data.jsonl", 50))
    check_conversations([*examples, *talks, longer], tokenizer, 9, 400)
    assert len(seen) == 3, "the first of each form, and the long one, whose bound is above 400"


@pytest.mark.parametrize("place", [0, 3])
def test_the_longest_is_named(speaker: Pipeline, place: int) -> None:
    """Guards against an order of examples in which the one that does not fit is not seen."""

    def told(words: int, row: int) -> Example:
        return replace(example(row, captions=(Caption("a dog " * words, "en"),)), source=Source("data.jsonl", row))

    examples = [told(2, 1), told(3, 2), told(2, 3)]
    examples.insert(place, told(70, 9))
    tokenizer = speaker.codec.chat_tokenizer
    with pytest.raises(InputError, match=r"data.jsonl:9: a conversation of (\d+) tokens, 9 for each image") as error:
        check_conversations(examples, tokenizer, 9, 200)
    (most,) = {int(word) for word in str(error.value).split("max_tokens=")[1].split(",")[:1]}
    check_conversations(examples, tokenizer, 9, most)
    with pytest.raises(InputError):
        check_conversations(examples, tokenizer, 9, most - 1)
