"""What a connection may cost before its request is known: bytes of a head, requests in advance, connections at all.

uvicorn with httptools bounds none of these: a header line without end is kept whole, and a client may send thousands of
requests before it reads an answer. Everything here happens before the token is looked at.
"""

import asyncio
import time
from typing import Any

from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.patience import PatientProtocol

MAX_HEAD_BYTES = 32 * 1024
"""Address, headers and trailers of one request; also the longest piece of it that the parser has not reported yet."""
MAX_AHEAD = 16
"""Requests that wait on a connection for the answer to the one before."""
MAX_AHEAD_BYTES = 64 * 1024
"""Bytes of their bodies."""
FED_BYTES = 16 * 1024
"""The parser is fed this much at once, so that what it keeps is seen in time."""


class RefusedError(Exception):
    """Stops the parser in the middle of what it reads."""


class BoundedProtocol(PatientProtocol):
    """A connection that is closed where it asks for too much.

    Args:
        max_connections: where there are more, the one that has waited longest for its client is closed.
        given: see `PatientProtocol`.
    """

    def __init__(self, *, max_connections: int, **given: Any) -> None:
        super().__init__(**given)
        self._max_connections = max_connections
        self._head_bytes, self._silent_bytes, self._ahead_bytes = 0, 0, 0
        self._is_head, self._refusal, self._waits_since = True, "not_http", 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Make room where there are too many connections."""
        super().connection_made(transport)
        self._waits_since = time.monotonic()
        if len(self.connections) > self._max_connections:
            waiting = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.is_waiting]
            longest = min(waiting, key=lambda one: one._waits_since)
            self.connections.discard(longest)  # its end is told later; until then nobody else should choose it
            longest.transport.abort()

    @property
    def is_waiting(self) -> bool:
        """Whether the client is to speak: no request, a head or a body that is not complete, or all is answered."""
        return self.cycle is None or self._is_answered or not self._is_whole

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and stop where it reports nothing: it keeps the beginning of an endless line."""
        pieces = memoryview(data)
        for start in range(0, len(data), FED_BYTES):
            piece = pieces[start : start + FED_BYTES]
            self._silent_bytes += len(piece)
            super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer
            if self.transport.is_closing():
                return
            if self._silent_bytes > MAX_HEAD_BYTES:
                self._refusal = "headers_too_large"
                self.send_400_response("")
                return

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong, unless another answer comes first on this connection, and hang up."""
        cycle = self.cycle
        is_free = not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started)
        if is_free:
            error = ServedError(self._refusal).response()
            head = [(b"connection", b"close"), *error.raw_headers]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
            self.transport.write(f"HTTP/1.1 {error.status_code} \r\n".encode() + lines + b"\r\n" + bytes(error.body))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Nothing of the request has been read."""
        self._head_bytes, self._silent_bytes, self._is_head = 0, 0, True
        if not self.pipeline:
            self._ahead_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a piece of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; a trailer is counted and forgotten, since uvicorn would take it for a header."""
        self._count(len(name) + len(value))
        if self._is_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a request that comes too far ahead of the answers."""
        self._is_head, self._silent_bytes = False, 0
        if len(self.pipeline) >= MAX_AHEAD:
            raise RefusedError
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """The parser calls this when it has read the size of a chunk."""
        self._silent_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Count a body that nobody reads yet; all others are counted where they are read (`bodies.Held`)."""
        self._silent_bytes = 0
        if self.pipeline:
            self._ahead_bytes += len(body)
            if self._ahead_bytes > MAX_AHEAD_BYTES:
                raise RefusedError
        super().on_body(body)

    def on_response_complete(self) -> None:
        """From here on the client is waited for."""
        self._waits_since = time.monotonic()
        super().on_response_complete()

    def _count(self, count: int) -> None:
        self._head_bytes, self._silent_bytes = self._head_bytes + count, 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = "headers_too_large"
            raise RefusedError
