"""Conversations that a language model writes itself: what is kept of them, and what the draws depend on."""

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Turn
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
    drafts = [("one", True), ("one", True), ("cut", False), ("", True), ("an <image>", True), ("mute", True)]
    said = {"one": ("yes", True), "an (image)": ("no", True), "mute": ("", True)}
    starts: list[list[int]] = []

    def replies(model: object, task: str, tokenizer: object, encoded: object, prompts: list, decoding: object) -> list:  # type: ignore[type-arg]
        if len(prompts) == conversation_rehearsal.WRITTEN_AT_ONCE:
            starts.extend(list(ids) for _, ids in prompts)
            found = [drafts[number % len(drafts)] for number in range(len(prompts))]
        else:
            found = list(said.values())
        return [Reply(text, (), 0.0, (), is_finished) for text, is_finished in found]

    monkeypatch.setattr(conversation_rehearsal, "replies", replies)
    assert written(speaker, 2) == [
        (Turn("user", "one"), Turn("assistant", "yes")),
        (Turn("user", "an (image)"), Turn("assistant", "no")),
    ]
    whole = speaker.codec.chat_tokenizer.conversation((Turn("user", "xyz"), Turn("assistant", "abc"))).ids
    start = starts[0]
    assert whole[: len(start)] == start
    assert speaker.codec.tokenizer.decode(whole[len(start) :]).startswith("xyz")


def test_a_model_that_ends_nothing_is_refused(speaker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def replies(*given: object) -> list[Reply]:
        return [Reply("on and on", (), 0.0, (), False) for _ in given[4]]  # type: ignore[attr-defined]

    monkeypatch.setattr(conversation_rehearsal, "replies", replies)
    with pytest.raises(InputError, match=r"tasks.conversation.rehearsed is 2, and of 256 texts .* 0 came to an end"):
        written(speaker, 2)
