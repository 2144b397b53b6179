"""Conversations that a language model writes itself: what is kept of them, and what the draws depend on."""

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Turn
from chiasm.models.decoding import DecodingConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import conversation_rehearsal
from chiasm.tasks.conversation_rehearsal import rehearsed
from chiasm.tasks.conversation_writing import Reply


def written(speaker: Pipeline, count: int, seed: int = 0) -> list[tuple[Turn, Turn]]:
    return rehearsed(speaker.model, "conversation", speaker.codec.chat_tokenizer, count, seed, lambda *_: None)


def test_they_depend_on_the_seed_alone_and_leave_the_generator_as_it_was(
    speaker: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights seldom end a text, so the bound on that is lifted."""
    monkeypatch.setattr(conversation_rehearsal, "LEAST_SHARE", 0.0)
    torch.manual_seed(5)
    first = written(speaker, 3)
    state = torch.random.get_rng_state()
    torch.manual_seed(6)
    assert written(speaker, 3) == first
    assert written(speaker, 3, seed=1) != first
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({asked.text for asked, _ in first}) == len(first) == 3
    assert all([turn.role for turn in turns] == ["user", "assistant"] for turns in first)
    for turns in first:
        assert any(speaker.codec.chat_tokenizer.conversation(turns).is_counted)


def test_repeated_unfinished_and_empty_texts_are_left_out(speaker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that the longest length ends has its end token one place behind the last that it may have."""
    tokenizer = speaker.codec.chat_tokenizer
    drafts = ["one", "cut", "", "an <image>", "mute"]
    starts: list[list[int]] = []

    def reply(text: str, limit: int) -> Reply:
        ids = [*tokenizer.pieces(text), tokenizer.end_id]
        ids = [*ids[:-1] * limit, tokenizer.end_id][-limit - 1 :] if text == "cut" else ids
        assert text != "cut" or len(ids) == limit + 1
        return Reply(text, tuple(ids), 0.0, (), True)

    def replies(
        model: object, task: str, _: object, encoded: object, prompts: list, decoding: DecodingConfig, **__: object
    ) -> list:  # type: ignore[type-arg]
        if decoding == conversation_rehearsal.ASKED:
            starts.extend(list(ids) for _, ids in prompts)
            found = [drafts[number % len(drafts)] for number in range(len(prompts))]
        else:
            asked = [tokenizer.decode(ids) for _, ids in prompts]
            found = ["" if "mute" in text else "cut" if "one" in text else f"reply to {text}" for text in asked]
        return [reply(text, decoding.max_words) for text in found]

    monkeypatch.setattr(conversation_rehearsal, "replies", replies)
    made = written(speaker, 2)
    assert [turns[0].text for turns in made] == ["Whoan (image)", "an (image)"]
    assert all(turns[1].text.startswith("reply to") for turns in made)
    whole = tokenizer.conversation((Turn("user", "xyz"), Turn("assistant", "abc"))).ids
    start = starts[0]
    assert whole[: len(start)] == start
    assert tokenizer.decode(whole[len(start) :]).startswith("xyz")
    assert starts[1] == [*start, *tokenizer.pieces("What is")]


def test_a_model_that_ends_nothing_is_refused(speaker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def replies(*given: object, **_: object) -> list[Reply]:
        return [Reply("on and on", (5,), 0.0, (), False) for _ in given[4]]  # type: ignore[attr-defined]

    monkeypatch.setattr(conversation_rehearsal, "replies", replies)
    with pytest.raises(InputError, match=r"tasks.conversation.rehearsed is 2, and of 256 texts .* 0 came to an end"):
        written(speaker, 2)
