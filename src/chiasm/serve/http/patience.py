"""Connections that never finish asking: the head of a request has a time limit, as its body has.

uvicorn waits for a head as long as the client likes ("slowloris"): each such connection costs a file descriptor, of
which a process has few.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when uvicorn is imported
    """uvicorn's own protocol, which hangs up where a request's head takes longer than `head_s`.

    Args:
        head_s: seconds from the connection, or from the first byte of a further request, to the end of its head.
        given: what uvicorn gives its protocols.
    """

    def __init__(self, *, head_s: float, **given: Any) -> None:
        super().__init__(**given)
        self._head_s = head_s
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Hand the bytes on; a head has come where they begin a new request."""
        before = self.cycle
        if before is not None and before.response_complete:
            self._wait()
        super().data_received(data)
        if self.cycle is not before:
            self._end_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._end_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_s, self.transport.close)

    def _end_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
