"""Checks of every request before routing: origin, token, size, and room in the queue.

Plain ASGI, in this order: host and origin, token, draining, room, type and size of the body. Headers that keep a
browser from doing more than our page needs are put on every answer.
"""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from chiasm.serve.batcher import Batcher
from chiasm.serve.http.bodies import MOST_BYTES, Body, Held, Message, Receive
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.metrics import Metrics
from chiasm.serve.http.settings import ServerSettings, is_loopback

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz"})
"""Addresses that need no token: whoever keeps the process alive asks them."""
HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::\d{1,5})?")
"""A host as a browser sends it; some versions of Python's own parser read "[::1].evil.example" as "::1"."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(slots=True)
class Health:
    """Whether the server accepts requests."""

    is_draining: bool = False
    open_requests: int = 0


class Guard:
    """Wraps the application.

    Args:
        app: what answers.
        settings: limits and token.
        batcher: whose queue may be full.
        metrics: where requests are counted.
        health: shared with the process that stops it.
        held: counts the bytes of all bodies.
    """

    def __init__(
        self, app: App, settings: ServerSettings, batcher: Batcher, metrics: Metrics, health: Health, held: Held
    ) -> None:
        self.app, self.settings, self.batcher, self.metrics, self.health = app, settings, batcher, metrics, health
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the start and stop of the application pass through."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {name for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(one for one in HEADERS if one[0] not in known)]
            await send(message)

        body = Body(receive, self.settings, self.held)
        self.health.open_requests += 1
        try:
            error = self._refusal(scope)
            if error is None:
                scope.setdefault("state", {})[MOST_BYTES] = self.settings.max_body_bytes
                await self.app(scope, body.receive, sending)
            else:
                await error.response()(scope, receive, sending)  # type: ignore[arg-type]
        finally:
            body.release()
            self.health.open_requests -= 1
            self.metrics.add(scope["path"], status, time.monotonic() - start)

    def _refusal(self, scope: Scope) -> ServedError | None:
        """Why the request is not even read, by its headers alone."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        code = self._wrong_place(headers) or self._wrong_token(scope["path"], headers)
        if code:
            return ServedError(code)
        if scope["method"] != "POST":
            return None
        if self.health.is_draining:
            return ServedError("draining")
        if self.batcher.is_full:
            self.batcher.stats.refused += 1
            return ServedError("busy", retry_after_s=self.batcher.retry_after_s)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json" or headers.get(b"content-encoding", b"identity") != b"identity":
            return ServedError("unsupported_media")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.settings.max_body_bytes:
            return ServedError("body_too_large")
        return None

    def _wrong_place(self, headers: dict[bytes, bytes]) -> str:
        """Pages of other sites, and names that somebody else points at this machine (DNS rebinding)."""
        host = headers.get(b"host", b"").decode("latin-1")
        named = HOST.fullmatch(host)
        if not self.settings.token and (named is None or not is_loopback(named["v6"] or named["name"].lower())):
            return "host_not_allowed"
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin.partition("://")[2] != host:
            return "origin_not_allowed"
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return "origin_not_allowed"
        return ""

    def _wrong_token(self, path: str, headers: dict[bytes, bytes]) -> str:
        if not self.settings.token or path in OPEN:
            return ""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic":  # what a browser sends: any name, and the token as the password
            try:
                given = base64.b64decode(given.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                given = b""
        elif kind.lower() != b"bearer":
            given = b""
        return "" if hmac.compare_digest(given.strip(), self.settings.token.encode()) else "unauthorized"
