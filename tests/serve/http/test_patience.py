"""How long a connection may keep the server waiting, and that one that keeps its time stays open."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from doors import Door, data_uri, running

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings

LIMIT_S = 0.3
BODY = b"x" * 1000
WHOLE = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connection(door: Door) -> socket.socket:
    place = urlsplit(door.address)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=10)


@pytest.fixture
def raw(model: Model) -> Iterator[socket.socket]:
    """A connection to a server that waits for at most `LIMIT_S`."""
    with running(Service(model, "demo", ServerSettings(timeout_s=LIMIT_S))) as door, connection(door) as made:
        yield made


def head(raw: socket.socket) -> bytes:
    """Of a request that is refused before its body is read: it is no JSON."""
    host, port = raw.getpeername()
    return f"POST /v1/ask HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


def hangs_up(raw: socket.socket) -> bool:
    start = time.monotonic()
    return raw.recv(4096) == b"" and LIMIT_S / 2 < time.monotonic() - start < 20 * LIMIT_S


def test_refused_request_leaves_the_connection_open(raw: socket.socket) -> None:
    """Guards against a body that comes after its refusal and is taken for the slow beginning of a new request."""
    for _ in range(2):
        raw.sendall(head(raw) + BODY[:10])
        assert b" 415 " in raw.recv(4096)[:20]
        raw.sendall(BODY[10:])
        time.sleep(2 * LIMIT_S)
    raw.sendall(WHOLE.encode())
    assert b" 200 " in raw.recv(4096)[:20]


def test_rest_of_a_refused_body_is_not_waited_for(raw: socket.socket) -> None:
    """Guards against the same by a body that nobody reads."""
    raw.sendall(head(raw) + BODY[:10])
    assert b" 415 " in raw.recv(4096)[:20]
    assert hangs_up(raw)


@pytest.mark.parametrize(("first", "begun"), [("", ""), ("", "POST /v1/ask HTTP/1.1\r\nHo"), (WHOLE, "GET /")])
def test_slow_heads_are_hung_up_on(model: Model, first: str, begun: str) -> None:
    """Guards against clients that hold every connection by never finishing a request's head, first or second."""
    with running(Service(model, "demo", ServerSettings(timeout_s=1.5))) as door, contextlib.ExitStack() as held:
        open_sockets = [held.enter_context(connection(door)) for _ in range(200)]
        start = time.monotonic()
        for one in open_sockets:
            if first:
                one.sendall(first.encode())
                assert b" 200 " in one.recv(4096)[:20]
            one.sendall(begun.encode())
        waits = []
        for _ in range(10):
            asked = time.monotonic()
            assert door("/healthz").status == 200
            waits.append(time.monotonic() - asked)
        assert sorted(waits)[5] < 0.2, "others wait for them"
        for one in open_sockets:
            with contextlib.suppress(ConnectionResetError):
                while one.recv(4096):
                    pass
        assert time.monotonic() - start < 8


def test_slow_bodies_are_told_so(model: Model, files: list[bytes]) -> None:
    """Guards against a body that comes a byte a second, for ever."""
    body = json.dumps({"image": data_uri(files[0])}).encode()
    with running(Service(model, "demo", ServerSettings(timeout_s=4))) as door, contextlib.ExitStack() as held:
        place, open_sockets = urlsplit(door.address).netloc, [held.enter_context(connection(door)) for _ in range(50)]
        head = f"POST /v1/caption HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\n"
        for one in open_sockets:
            one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:40])
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200, "others are answered meanwhile"
        for one in open_sockets:
            said = b""
            while part := one.recv(65536):  # head and body may come apart; then the server hangs up
                said += part
            assert b" 408 " in said[:20] and b"body_too_slow" in said
