"""Memory limits of request bodies, over all connections, while they arrive and when they are parsed.

Two limits hold. All bodies in memory, complete or not, together take at most `max_held_bytes`: above it the largest
incomplete body is refused ("busy"), so that a few huge uploads do not displace many small ones. And JSON with too many
parts (`{},{},` takes 24 times its length as Python objects) is refused before it is parsed.
"""

import asyncio
import gc
import mmap
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from chiasm.core.device import return_freed_memory
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.settings import ServerSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_JSON_PARTS = 250_000
"""Maximum number of `PARTS` in a body, those inside strings included."""
PARTS = (b",", b"[", b"{", b'"')
LONG_BYTES = 2**18
"""Maximum length of a string with characters outside ASCII; a base64 image is ASCII and may be longer."""
LARGE_BYTES = 2**20
"""After a larger body, young garbage is collected and freed memory is returned to the system."""
TRIM_AFTER_S = 0.5
SMALL_BYTES = 2**18
"""A larger body is kept in memory pages of its own (`mmap`)."""
MOST_BYTES = "chiasm_most_body_bytes"
"""Key in the state of a request's scope: maximum bytes of its body."""


class Held:
    """Counts the bytes of all bodies in memory.

    Args:
        limit_bytes: maximum of the sum.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.total_bytes, self.evicted = limit_bytes, 0, 0
        self._bodies: set[Body] = set()
        self._trims = False

    def add(self, body: "Body", count: int) -> None:
        """Count bytes of an incomplete body; above the limit, the largest incomplete body is refused."""
        self._bodies.add(body)
        body.held_bytes += count
        self.total_bytes += count
        while self.total_bytes > self.limit_bytes:
            largest = max((held for held in self._bodies if not held.is_whole), key=lambda held: held.held_bytes)
            self.evicted += 1
            self.release(largest)
            largest.evict()

    def release(self, body: "Body") -> None:
        """Stop counting a body; a second call does nothing."""
        if body not in self._bodies:
            return
        self._bodies.remove(body)
        self.total_bytes -= body.held_bytes
        if body.held_bytes > LARGE_BYTES:
            loop = asyncio.get_running_loop()
            # Exceptions and their frames refer to each other and to the parsed body: without this, 100 MiB stay.
            loop.call_soon(gc.collect, 1)
            if not self._trims:
                self._trims = True
                loop.call_later(TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._trims = False
        return_freed_memory()


class Body:
    """The body of one request as it arrives: counts its bytes and limits the time that it may take."""

    def __init__(self, receive: Receive, settings: ServerSettings, held: Held) -> None:
        self._receive, self._left, self._held = receive, settings.max_body_bytes, held
        self._end = time.monotonic() + settings.timeout_s
        self._waiting: asyncio.Timeout | None = None
        self.is_whole, self.is_evicted, self.held_bytes = False, False, 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            ServedError: "body_too_large", "body_too_slow", or "busy" where all bodies together are too large.
        """
        if self.is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())) as self._waiting:
                message = await self._receive()
        except TimeoutError:
            raise ServedError("busy" if self.is_evicted else "body_too_slow") from None
        finally:
            self._waiting = None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self._left -= count
            if self._left < 0:
                raise ServedError("body_too_large")
            self._held.add(self, count)
            if self.is_evicted:
                raise ServedError("busy")
            self.is_whole = not message.get("more_body", False)
        return message

    def evict(self) -> None:
        """Stop waiting for the rest of the body."""
        self.is_evicted = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    def release(self) -> None:
        """Stop counting the body, because its request is answered."""
        self._held.release(self)


class Block:
    """A growing buffer; a large one is kept in memory pages of its own (`mmap`).

    Bodies that grow side by side in the allocator's heap fragment it: 64 MiB of them took 370. Mapped pages are
    allocated as they are written, and are returned to the system at once.

    Args:
        most_bytes: maximum length.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.length = most_bytes, 0
        self._small = bytearray()
        self._pages: mmap.mmap | None = None

    def __len__(self) -> int:
        return self.length

    def add(self, piece: bytes) -> None:
        """Append bytes."""
        if self._pages is None and self.length + len(piece) > SMALL_BYTES:
            self._pages = mmap.mmap(-1, self.most_bytes)
            self._pages.write(self._small)
            self._small.clear()
        if self._pages is None:
            self._small += piece
        else:
            self._pages.write(piece)
        self.length += len(piece)

    def take(self) -> bytes | bytearray:
        """Return the content and empty the block."""
        if self._pages is None:
            found, self._small = self._small, bytearray()
            return found
        whole = self._pages[: self.length]
        self.drop()
        return whole

    def drop(self) -> None:
        """Free the content."""
        self._small = bytearray()
        if self._pages is not None:
            self._pages.close()
            self._pages = None


class _JsonRequest(Request):
    """Reads a body piece by piece into one `Block`, which is emptied when it has been parsed."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            block = Block(self.scope["state"][MOST_BYTES])
            try:
                async for piece in self.stream():
                    block.add(piece)
            except BaseException:
                block.drop()  # the exception refers to this frame, and so to the block, until it is collected
                raise
            self._body = block  # type: ignore[assignment]  # FastAPI only tests whether it is empty
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            block: Block = await self.body()  # type: ignore[assignment]
            self._json = _parsed(block.take())
        return self._json


def _parsed(content: bytes | bytearray) -> Any:
    is_wide = False
    if sum(content.count(part) for part in PARTS) > MAX_JSON_PARTS or (is_wide := _is_wide(content)):
        content = b""  # the exception refers to this frame
        raise ServedError("invalid_request" if is_wide else "too_many_items")
    try:
        return from_json(content)
    except ValueError:
        content = b""
        raise ServedError("not_json") from None


def _has_non_ascii(content: bytes | bytearray, start: int, end: int) -> bool:
    starts = range(start, end, LONG_BYTES)  # piece by piece: a copy of the whole would be as large as the body
    return any(not content[first : min(end, first + LONG_BYTES)].isascii() for first in starts)


def _is_wide(content: bytes | bytearray) -> bool:
    """Whether a long string has a character outside ASCII: Python would keep four bytes for each of its characters."""
    if len(content) <= LONG_BYTES or (content.isascii() and b"\\u" not in content):
        return False
    start = 0
    while (end := content.find(b'"', start)) != -1:
        is_long = end - start > LONG_BYTES
        if is_long and (content.find(b"\\u", start, end) != -1 or _has_non_ascii(content, start, end)):
            return True
        start = end + 1
    return False


class JsonRoute(APIRoute):
    """A route that reads request bodies with `_JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, called with a `_JsonRequest`."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await inner(_JsonRequest(request.scope, request.receive))

        return handle
