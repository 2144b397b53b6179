"""What talks: prompts out of messages, beginnings that are read once, replies with their probabilities."""

import math

import pytest
from talking import talking

from chiasm.serve.engine import Model
from chiasm.tasks.conversation_decoding import Decoder, Sampling, Written
from tiny_talker import pictures

__all__ = ["talking"]


def test_the_history_is_not_read_again(talking: Model) -> None:
    """The second turn computes what is new alone, and encodes no image."""
    talker, image = talking.talker, pictures(9)[8]
    turns = [{"role": "user", "content": [{"image": image}, "What is there?"]}]
    said = talking.chat(turns, max_tokens=6)
    turns += [{"role": "assistant", "content": said.answer or "a"}, {"role": "user", "content": "And?"}]
    decoder, prompt = talker.decoder(), talker.prompt(turns)
    decoder.add("", prompt.ids, prompt.images, Sampling(max_tokens=1))
    first = talker.prompt(turns[:1])
    assert decoder.counts.images == 0
    assert decoder.counts.reused_positions >= len(first.ids) - 1 + 8  # an image of nine tokens
    assert decoder.counts.prompt_positions < 60


def test_a_closed_reply_is_kept_and_a_broken_one_is_not(talking: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against keys and values of a step that was interrupted in its middle."""
    talker = talking.talker
    prompt = talker.prompt("over the snow, red")
    written = talker.written(prompt, Sampling(max_tokens=9))
    next(written)
    written.close()
    assert talker.store.longest(prompt.ids[:-1])[1] == len(prompt.ids) - 1
    other = talker.prompt("yes yes yes no")
    written = talker.written(other, Sampling(max_tokens=9))
    next(written)

    def interrupted(self: Decoder) -> list[Written]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(written)
    assert talker.store.longest(other.ids[:-1])[1] < len(other.ids) - 1


def test_a_reply(talking: Model) -> None:
    end = talking.talker.tokenizer.end_ids[0]
    written = [
        Written("", 20, "a", math.log(0.5), (), ""),
        Written("", 21, "b", math.log(0.25), (), "", True),
        Written("", end, "", math.log(0.125), (), "stop"),
    ]
    said = talking.talker.reply(written)
    assert said.answer == "ab" and said.confidence == pytest.approx(0.25)
    assert said.evidence["tokens"] == [[talking.talker.piece(20), pytest.approx(0.5)]]
    assert said.evidence["finish_reason"] == "stop"
