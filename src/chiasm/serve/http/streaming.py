"""Server-sent events, and waiting no longer than the client stays."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.service import client_left

T = TypeVar("T")
log = logging.getLogger("chiasm.serve")


def as_event(content: dict[str, Any], name: str = "") -> str:
    """A server-sent event of JSON, perhaps with a name."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content, ensure_ascii=False)}\n\n"


def failure(error: Exception) -> str:
    """The last event of a stream that ends with an error; what is unexpected is logged under the id in the event."""
    told = error if isinstance(error, ServedError) else ServedError("internal")
    if told is not error:
        log.error("request %s failed: %s", told.id, type(error).__name__, exc_info=error)
    return as_event(told.body())


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await something, unless the client leaves before.

    Raises:
        ServedError: "deadline"; where the client is gone, nobody reads it.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(client_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ServedError("deadline")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


class EventStream(StreamingResponse):
    """Server-sent events whose end, however it comes, gives back what the request holds.

    Args:
        events: what is sent.
        close: frees it.
    """

    def __init__(self, events: AsyncIterator[str], close: Callable[[], Any]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, then free."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()
