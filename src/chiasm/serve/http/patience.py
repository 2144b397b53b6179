"""Time limits of connections that do not finish sending a request or reading a response.

uvicorn has no time limit for headers ("slowloris"): each such connection costs a file descriptor, of which a process
has few. The same holds for the rest of a body whose request was refused by its headers, and for responses that the
client does not read.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with time limits; it closes the connection of a client that exceeds one.

    Args:
        head_s: seconds for the headers of a request, from the connection or from its first byte; for the rest of an
            unread body, from the response; and for a client that has stopped reading its responses.
        given: arguments of uvicorn's protocol.
    """

    def __init__(self, *, head_s: float, **given: Any) -> None:
        super().__init__(**given)
        self._head_s = head_s
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._is_whole = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the time limit of the first headers."""
        super().connection_made(transport)
        self._wait(self._head_s)

    def on_message_begin(self) -> None:
        """Start the time limit of the headers that have begun."""
        super().on_message_begin()
        self._is_whole = False
        self._wait(self._head_s)

    def on_headers_complete(self) -> None:
        """End the time limit of the headers; the body has its own (`bodies.Body`)."""
        super().on_headers_complete()
        self._end_waiting()

    def on_message_complete(self) -> None:
        """Start the limit of idle connections where the response was sent before the request was complete."""
        super().on_message_complete()
        self._is_whole = True
        if self._is_answered:  # uvicorn cancelled its own limit when the rest of the body arrived
            self._wait(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """Start a time limit for the rest of the body, which must arrive before the next request can be read."""
        super().on_response_complete()
        if self._is_answered and not self._is_whole:
            self._wait(self._head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel both timers."""
        self._end_waiting()
        self._end_unread()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read its responses."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._head_s, self.transport.abort)

    def resume_writing(self) -> None:
        """End that time limit, because the client reads again."""
        self._end_unread()
        super().resume_writing()

    @property
    def _is_answered(self) -> bool:
        """Whether the response to the latest request has been sent."""
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
