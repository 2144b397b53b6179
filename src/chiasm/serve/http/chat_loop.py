"""All clients' conversations, decoded in one batch that takes in and lets go at every step.

One task of the event loop calls the decoder in the model's thread, one token of every conversation at a time, so that
other requests are computed between two steps. Its callers hold their room in the batcher's queue meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chiasm.serve.batcher import Batcher, DeadlinePassedError, fetched
from chiasm.serve.http.step_loop import StepLoop
from chiasm.serve.talker import Talker
from chiasm.tasks.conversation_decoding import Decoder, PromptSize, Sampling, Written


@dataclass(eq=False, slots=True)
class Listener:
    """One conversation of a client: what was written and not yet fetched."""

    messages: Sequence[Mapping[str, Any]]
    sampling: Sampling
    deadline: float
    """On the clock of `time.monotonic`."""
    events: "asyncio.Queue[PromptSize | Written | Exception]" = field(default_factory=asyncio.Queue)
    has_left: bool = False

    async def next(self) -> PromptSize | Written:
        """First the size of the prompt, then one token after the other, the last of which has a `finish`.

        Raises:
            DeadlinePassedError: the reply is not complete in time.
            InputError: the messages cannot be replied to.
        """
        return await fetched(self.events, self.deadline)


class Conversations(StepLoop):
    """Use `join`, `Listener.next`, and always `leave`, all in the event loop.

    Args:
        batcher: whose thread computes.
        talker: gives what talks; called when the first conversation begins, in the model's thread.
        max_rows: most conversations that are written at once; others wait in order.
    """

    def __init__(self, batcher: Batcher, talker: Callable[[], Talker], max_rows: int) -> None:
        super().__init__(batcher, max_rows)
        self._talker = talker
        self._waiting: deque[Listener] = deque()
        self._open: set[Listener] = set()
        self._decoder: Decoder | None = None

    def join(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling, deadline: float) -> Listener:
        """Begin a conversation; the caller holds room for one row."""
        listener = Listener(messages, sampling, deadline)
        self._waiting.append(listener)
        self._go_on()
        return listener

    def leave(self, listener: Listener) -> None:
        """Nobody reads on: the conversation's place is free at the next step."""
        listener.has_left = True

    # --- internal -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._waiting or self._open:
            gone = [one for one in self._open if one.has_left]
            self._open.difference_update(gone)
            self.batcher.stats.left += len(gone)
            joining = self._joining()
            if not (self._open or joining or gone):
                continue
            events = await self.batcher.in_thread(partial(self._step, joining, gone), _written)
            self._open.update(joining)
            for listener, event in events:
                listener.events.put_nowait(event)
                if isinstance(event, Exception) or (isinstance(event, Written) and event.finish):
                    self._open.discard(listener)

    def _joining(self) -> list[Listener]:
        """Those that have waited longest and have a place; who left or is late is dropped."""
        found: list[Listener] = []
        while self._waiting and len(self._open) + len(found) < self.max_rows:
            one = self._waiting.popleft()
            if one.has_left:
                self.batcher.stats.left += 1
            elif one.deadline <= time.monotonic():
                self.batcher.stats.late += 1
                one.events.put_nowait(DeadlinePassedError())
            else:
                found.append(one)
        return found

    def _step(self, joining: Sequence[Listener], gone: Sequence[Listener]) -> "list[Event]":
        """One token of every conversation, in the model's thread."""
        events: list[Event] = []
        try:
            talker = self._talker()
            if self._decoder is None:
                self._decoder = talker.decoder()
            for one in gone:
                self._decoder.remove(one)
        except Exception as error:
            return [(one, error) for one in joining]
        for one in joining:
            try:
                prompt = talker.prompt(one.messages)
                events.append((one, self._decoder.add(one, prompt.ids, prompt.images, one.sampling)))
            except Exception as error:  # one conversation may be invalid; the others go on
                events.append((one, error))
        try:
            return events + [(written.key, written) for written in self._decoder.step()]  # type: ignore[misc]
        except Exception as error:  # nothing is known of what the decoder holds now
            self._decoder = None
            return events + [(one, error) for one in {*self._open, *joining}]


Event = tuple[Listener, PromptSize | Written | Exception]


def _written(events: Sequence[Event]) -> int:
    return sum(isinstance(event, Written) for _, event in events)
