"""Time limits of connections that do not finish sending a request or reading a response.

uvicorn waits for a head as long as the client likes ("slowloris"): each such connection costs a file descriptor, of
which a process has few. The same holds for the rest of a body whose request was refused by its head, and for answers
that the client does not read.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with time limits; it closes the connection of a client that exceeds one.

    Args:
        head_s: seconds for the head of a request, from the connection or from its first byte; for the rest of a
            body that nobody reads, from the answer; and for a client to read on where answers pile up.
        given: what uvicorn gives its protocols.
    """

    def __init__(self, *, head_s: float, **given: Any) -> None:
        super().__init__(**given)
        self._head_s = head_s
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._is_whole = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait(self._head_s)

    def on_message_begin(self) -> None:
        """Wait for the end of a head that has begun."""
        super().on_message_begin()
        self._is_whole = False
        self._wait(self._head_s)

    def on_headers_complete(self) -> None:
        """The head is there; from now on the body has its own limit."""
        super().on_headers_complete()
        self._end_waiting()

    def on_message_complete(self) -> None:
        """All bytes of a request are there."""
        super().on_message_complete()
        self._is_whole = True
        if self._is_answered:  # uvicorn forgot its own limit on idle connections when the rest of the body came
            self._wait(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that came too late to be of use, so that the next request can be read."""
        super().on_response_complete()
        if self._is_answered and not self._is_whole:
            self._wait(self._head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._end_waiting()
        self._end_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not read its answers."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._head_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._end_unread()
        super().resume_writing()

    @property
    def _is_answered(self) -> bool:
        """Whether the latest request has its answer."""
        return self.cycle is not None and self.cycle.response_complete

    def _wait(self, seconds: float) -> None:
        self._end_waiting()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
