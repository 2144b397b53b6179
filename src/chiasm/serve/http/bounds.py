"""Limits of a connection before authentication: bytes of headers, pipelined requests, number of connections.

uvicorn with httptools limits none of these: it buffers an endless header line, and a client can send thousands of
requests before it reads a response.
"""

import asyncio
import time
from typing import Any

from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.patience import PatientProtocol

MAX_HEAD_BYTES = 32 * 1024
"""Maximum size of URL, headers and trailers of one request, and of bytes fed to the parser without a callback."""
MAX_AHEAD = 16
"""Maximum number of pipelined requests that wait on one connection."""
MAX_AHEAD_BYTES = 64 * 1024
"""Maximum size of the bodies of these requests."""
FED_BYTES = 16 * 1024
"""Bytes fed to the parser at once, so that its buffer is checked often enough."""


class RefusedError(Exception):
    """Raised in a callback to stop the parser."""


class BoundedProtocol(PatientProtocol):
    """A connection that is closed when it exceeds a limit.

    Args:
        max_connections: above it, the connection that has been idle longest is closed.
        given: see `PatientProtocol`.
    """

    def __init__(self, *, max_connections: int, **given: Any) -> None:
        super().__init__(**given)
        self._max_connections = max_connections
        self._head_bytes, self._silent_bytes, self._ahead_bytes = 0, 0, 0
        self._is_head, self._refusal, self._waits_since = True, "not_http", 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Close the longest idle connection when there are too many."""
        super().connection_made(transport)
        self._waits_since = time.monotonic()
        if len(self.connections) > self._max_connections:
            waiting = [other for other in self.connections if isinstance(other, BoundedProtocol) and other.is_waiting]
            longest = min(waiting, key=lambda other: other._waits_since)
            self.connections.discard(longest)  # `connection_lost` comes later; it must not be chosen again until then
            longest.transport.abort()

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for the client: no request yet, an incomplete one, or all are answered."""
        return self.cycle is None or self._is_answered or not self._is_whole

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse the request when the parser buffers too much without calling back."""
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
        """Send the error, unless another response is due first on this connection, and close the connection."""
        cycle = self.cycle
        is_free = not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started)
        if is_free:
            error = ServedError(self._refusal).response()
            head = [(b"connection", b"close"), *error.raw_headers]
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
            self.transport.write(f"HTTP/1.1 {error.status_code} \r\n".encode() + lines + b"\r\n" + bytes(error.body))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Reset the counters for a new request."""
        self._head_bytes, self._silent_bytes, self._is_head = 0, 0, True
        if not self.pipeline:
            self._ahead_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; a trailer is counted and dropped, because uvicorn would treat it as a header."""
        self._count(len(name) + len(value))
        if self._is_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a request when too many pipelined ones are waiting."""
        self._is_head, self._silent_bytes = False, 0
        if len(self.pipeline) >= MAX_AHEAD:
            raise RefusedError
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Called by the parser when it has read the size of a chunk."""
        self._silent_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Count the body of a pipelined request; other bodies are counted where they are read (`bodies.Held`)."""
        self._silent_bytes = 0
        if self.pipeline:
            self._ahead_bytes += len(body)
            if self._ahead_bytes > MAX_AHEAD_BYTES:
                raise RefusedError
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Record since when the connection has been idle."""
        self._waits_since = time.monotonic()
        super().on_response_complete()

    def _count(self, count: int) -> None:
        self._head_bytes, self._silent_bytes = self._head_bytes + count, 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = "headers_too_large"
            raise RefusedError
