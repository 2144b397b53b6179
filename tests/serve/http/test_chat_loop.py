"""The loop that decodes all conversations: failures stay alone, who is late or has left is not read."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chiasm.core.errors import InputError
from chiasm.serve.batcher import Batcher, DeadlinePassedError
from chiasm.serve.http.chat_loop import Conversations, Listener
from chiasm.tasks.conversation_decoding import PromptSize, Sampling, Written

FAR = 1e9


class FakeDecoder:
    """Writes "max_tokens" tokens; raises where the words say so."""

    def __init__(self, log: list[str]) -> None:
        self.rows: dict[Any, list[int]] = {}
        self.log, self.breaks = log, False

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, key: Any, ids: str, images: Any, sampling: Sampling) -> PromptSize:
        if ids == "poison":
            raise InputError("poison", "food", "spit")
        self.log.append(ids)
        self.breaks |= ids == "break"
        self.rows[key] = [sampling.max_tokens]
        return PromptSize(1, 0)

    def remove(self, key: Any) -> None:
        self.rows.pop(key, None)

    def step(self) -> list[Written]:
        if self.breaks:
            raise RuntimeError("broken")
        time.sleep(0.002)
        found = []
        for key, left in list(self.rows.items()):
            left[0] -= 1
            found.append(Written(key, 0, "x", 0.0, (), "" if left[0] else "length"))
            if not left[0]:
                del self.rows[key]
        return found


class FakeTalker:
    def __init__(self) -> None:
        self.log: list[str] = []

    def decoder(self) -> FakeDecoder:
        return FakeDecoder(self.log)

    def prompt(self, messages: Any) -> Any:
        class Prompt:
            ids, images = messages, ()

        return Prompt


def run(test: Callable[[Conversations, FakeTalker], Awaitable[None]], max_rows: int = 2) -> None:
    async def inner() -> None:
        batcher, talker = Batcher(8, 8), FakeTalker()
        batcher.start()
        conversations = Conversations(batcher, lambda: talker, max_rows)  # type: ignore[arg-type,return-value]
        try:
            await asyncio.wait_for(test(conversations, talker), 10)
        finally:
            await conversations.stop()
            await batcher.stop()

    asyncio.run(inner())


def join(conversations: Conversations, words: str, tokens: int = 3, deadline: float = FAR) -> Listener:
    return conversations.join(words, Sampling(max_tokens=tokens), deadline)  # type: ignore[arg-type]


async def read(listener: Listener) -> int:
    """Number of tokens until the end."""
    assert isinstance(await listener.next(), PromptSize)
    count, finish = 0, ""
    while not finish:
        one = await listener.next()
        assert isinstance(one, Written)
        count, finish = count + 1, one.finish
    return count


async def rest(listener: Listener) -> None:
    while True:
        await listener.next()


def test_others_wait_for_a_place() -> None:
    async def test(conversations: Conversations, talker: FakeTalker) -> None:
        listeners = [join(conversations, str(number), 3 + number) for number in range(5)]
        assert await asyncio.gather(*map(read, listeners)) == [3, 4, 5, 6, 7]
        assert talker.log == list("01234") and max(conversations.batcher.stats.sizes) == 2
        assert await read(join(conversations, "again")) == 3, "it goes on after it was idle"

    run(test)


def test_what_is_wrong_stays_alone() -> None:
    async def test(conversations: Conversations, talker: FakeTalker) -> None:
        good, bad = join(conversations, "good", 20), join(conversations, "poison")
        with pytest.raises(InputError, match="poison"):
            await bad.next()
        assert await read(good) == 20

    run(test)


def test_a_decoder_that_breaks_is_replaced() -> None:
    """All who were in it are told; those who come later are not harmed."""

    async def test(conversations: Conversations, talker: FakeTalker) -> None:
        first = join(conversations, "first", 500)
        await first.next()
        second = join(conversations, "break")
        for one in (first, second):
            with pytest.raises(RuntimeError, match="broken"):
                await rest(one)
        assert await read(join(conversations, "later")) == 3

    run(test)


def test_late_and_left_are_not_read() -> None:
    async def test(conversations: Conversations, talker: FakeTalker) -> None:
        full = [join(conversations, "full", 60) for _ in range(2)]
        while not talker.log:
            await asyncio.sleep(0.001)
        late, left = join(conversations, "late", deadline=time.monotonic() + 0.01), join(conversations, "left")
        conversations.leave(left)
        with pytest.raises(DeadlinePassedError):
            await late.next()
        gone = join(conversations, "gone", 10_000)
        await asyncio.gather(*map(read, full))
        await gone.next()
        conversations.leave(gone)
        assert await read(join(conversations, "kept")) == 3
        stats = conversations.batcher.stats
        assert talker.log == ["full", "full", "gone", "kept"] and stats.late == 1 and stats.left == 2
        assert not conversations._open

    run(test)
