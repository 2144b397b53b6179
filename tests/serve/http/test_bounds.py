"""What a client may cost before its request is complete: bytes of a head, connections, bodies of all clients."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from doors import Door, data_uri, running

from chiasm.serve.engine import Model
from chiasm.serve.http.bounds import FED_BYTES, MAX_HEAD_BYTES
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings

KIB = 1024
CHUNKED = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
MOST_SENT = 4 * 2**20


@pytest.fixture(scope="module")
def small(model: Model) -> Iterator[Door]:
    """A server with room for two megabytes of bodies."""
    settings = ServerSettings(token="x" * 16, max_body_bytes=2**20, max_held_bytes=2 * 2**20, timeout_s=20)
    with running(Service(model, "demo", settings)) as door:
        yield door


def connection(door: Door) -> socket.socket:
    place = urlsplit(door.address)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=10)


def head(method: str = "GET", path: str = "/v1/models", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}".encode()


def sent_until_closed(raw: socket.socket, start: bytes, piece: bytes) -> tuple[int, bytes]:
    """Bytes that were sent before the server hung up, and what it said."""
    raw.settimeout(5)
    sent, said = 0, b""
    with contextlib.suppress(OSError):
        raw.sendall(start)
        while sent < MOST_SENT:
            raw.sendall(piece)
            sent += len(piece)
            time.sleep(0.001)
    with contextlib.suppress(OSError):
        while part := raw.recv(65536):
            said += part
    return sent, said


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (head(more="X: "), b"a" * 8 * KIB),
        (head(), b"a" * 8 * KIB),
        (head(), b"X: " + b"a" * KIB + b"\r\n"),
        (head(), b"X:1\r\n" * KIB),
        (b"GET /", b"a" * 8 * KIB),
        (head("POST", "/v1/ask", CHUNKED) + b"5;x=", b"a" * 8 * KIB),
        (head("POST", "/v1/ask", CHUNKED) + b"2\r\n{}\r\n0\r\nX: ", b"a" * 8 * KIB),
        (head("POST", "/v1/ask", CHUNKED) + b"2\r\n{}\r\n0\r\n", b"X: " + b"a" * KIB + b"\r\n"),
        (b"", b"\0" * 8 * KIB),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"a" * 8 * KIB),
        (head(more="Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), b"a" * 8 * KIB),
    ],
    ids=[
        "value",
        "name",
        "lines",
        "short-lines",
        "address",
        "extension",
        "trailer",
        "trailers",
        "zeros",
        "http2",
        "upgrade",
    ],
)
def test_heads_without_end_are_hung_up_on(small: Door, start: bytes, piece: bytes) -> None:
    """Guards against a head, or what stands for one after a body, that is kept whole however long it is."""
    with connection(small) as raw:
        sent, said = sent_until_closed(raw, start, piece)
    assert sent < MOST_SENT / 4
    assert small("/healthz").status == 200
    if start.startswith(b"GET") and b"Upgrade" not in start:
        assert said.startswith(b"HTTP/1.1 431 ") or not said


def test_a_long_head_is_refused_in_words(small: Door) -> None:
    """Guards against a bound that honest heads meet, and a refusal that says nothing."""
    whole = head(path="/healthz", more="X: ")
    with connection(small) as raw:
        raw.sendall(whole + b"a" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
        raw.sendall(whole + b"a" * (MAX_HEAD_BYTES + FED_BYTES) + b"\r\n\r\n")
        said = raw.recv(4096)
        assert said.startswith(b"HTTP/1.1 431 ") and b'"headers_too_large"' in said and b"connection: close" in said


def test_a_trailer_is_no_header(small: Door) -> None:
    """Guards against a trailer that comes with the body and is taken for a header, such as a token."""
    with connection(small) as raw:
        token = b"Authorization: Bearer " + b"x" * 16
        raw.sendall(head("POST", "/v1/ask", CHUNKED) + b"2\r\n{}\r\n0\r\n" + token + b"\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_requests_far_ahead_are_hung_up_on(small: Door) -> None:
    """Guards against a client that asks thousands of times before it reads, and one that may not ask ahead at all."""
    one = head(path="/healthz", more="\r\n")
    with connection(small) as raw:
        raw.sendall(one * 8)
        said = b""
        while said.count(b"HTTP/1.1 200 ") < 8:
            said += raw.recv(65536)
        sent, _ = sent_until_closed(raw, b"", one * 500)
        assert sent < MOST_SENT


def test_bodies_of_all_clients_have_a_bound(small: Door) -> None:
    """Guards against uploads that fill the memory together: the largest unfinished goes, small ones are answered."""
    door, more = small, "Authorization: Bearer " + "x" * 16 + "\r\nContent-Type: application/json\r\n"
    start = head("POST", "/v1/embeddings", f"{more}Content-Length: {1000 * KIB}\r\n\r\n")
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(connection(door)) for _ in range(12)]
        for raw in clients:
            raw.sendall(start)
            with contextlib.suppress(OSError):
                raw.sendall(b" " * 900 * KIB)
        refused = 0
        for raw in clients:
            raw.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                said = raw.recv(4096)
                assert said.startswith(b"HTTP/1.1 503 ") and b"retry-after" in said.lower()
                refused += 1
        assert refused >= 10 and door.service.held.total_bytes <= door.service.settings.max_held_bytes
        headers = {"Authorization": "Bearer " + "x" * 16}
        assert door("/v1/embeddings", {"input": "a red circle"}, headers=headers).status == 200
    for _ in range(200):
        if door.service.held.total_bytes == 0:
            break
        time.sleep(0.01)
    else:
        raise AssertionError("bodies are counted after their clients have left")


def test_too_many_connections_close_the_idlest(model: Model, files: list[bytes]) -> None:
    """Guards against idle connections that keep everybody out, and against a bound that ends requests in progress."""
    with running(Service(model, "demo", ServerSettings(max_connections=8))) as door, contextlib.ExitStack() as held:
        first = held.enter_context(connection(door))
        others = [held.enter_context(connection(door)) for _ in range(7)]
        content = json.dumps({"image": data_uri(files[0])}).encode()
        host = urlsplit(door.address).netloc
        for raw in others[:2]:  # these begin to ask and stay
            raw.sendall(f"POST /v1/caption HTTP/1.1\r\nHost: {host}\r\nContent-".encode())
        assert [door("/healthz").status for _ in range(4)] == [200] * 4
        first.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(10) == b"", "the idlest is closed first"
        last = held.enter_context(connection(door))
        more = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        last.sendall(f"POST /v1/caption HTTP/1.1\r\nHost: {host}\r\n{more}".encode() + content)
        assert last.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_unread_answers_are_not_kept_forever(model: Model) -> None:
    """Guards against a client that asks and never reads: its answers pile up, and its connection stays."""
    with running(Service(model, "demo", ServerSettings(timeout_s=0.5))) as door, connection(door) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one = f"GET /openapi.json HTTP/1.1\r\nHost: {urlsplit(door.address).netloc}\r\n\r\n".encode()
        raw.settimeout(0.2)
        closed = False
        end = time.monotonic() + 15
        while time.monotonic() < end and not closed:
            try:
                raw.sendall(one)
            except TimeoutError:
                pass
            except OSError:
                closed = True
            time.sleep(0.01)
        assert closed
        assert door("/healthz").status == 200
