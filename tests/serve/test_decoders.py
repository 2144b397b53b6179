"""Slow decoders and slow clients cost themselves, and nobody else."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from doors import Door, data_uri, running

from chiasm.serve.engine import Model
from chiasm.serve.http import decoders
from chiasm.serve.http.decoders import Decoders
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index

STUCK = b"stuck"
WHOLE = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def stuck(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A model whose decoder hangs on one file until the event."""
    opened, inner = threading.Event(), model.prepare

    def prepare(picture: Any) -> Any:
        if picture == STUCK:
            assert opened.wait(20)
        return inner(picture)

    monkeypatch.setattr(model, "prepare", prepare)
    yield opened
    opened.set()


def test_a_stuck_decoder_is_replaced(model: Model, index: Index, files: list[bytes], stuck: threading.Event) -> None:
    """Guards against two pictures that stop the server: every thread hangs, and all others wait for ever."""
    settings = ServerSettings(decode_s=0.2, timeout_s=5)
    with running(Service(model, "demo", settings, index)) as door:
        for path, more in (("/v1/ask", {"question": "how many?"}), ("/v1/caption", {}), ("/v1/search", {})) * 2:
            start = time.monotonic()
            said = door(path, {"image": data_uri(STUCK), **more})
            assert (said.status, said.code) == (422, "image_too_slow") and time.monotonic() - start < 3
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200
        assert "chiasm_decoders_left 6" in door("/metrics").content.decode()
        stuck.set()
        for _ in range(100):
            if "chiasm_decoders_left 0" in door("/metrics").content.decode():
                break
            time.sleep(0.02)
        else:
            raise AssertionError("threads that ended are still counted")


def test_no_thread_is_free(
    model: Model, files: list[bytes], stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against threads without end: with too many stuck, the others are told to ask again, in time."""
    monkeypatch.setattr(decoders, "MOST_LEFT", 2)
    settings = ServerSettings(decode_s=0.1, timeout_s=3)
    with running(Service(model, "demo", settings)) as door:
        # The second that is left behind is not replaced, so the third takes the last thread.
        assert [door("/v1/caption", {"image": data_uri(STUCK)}).code for _ in range(3)] == ["image_too_slow"] * 3
        said = door("/v1/caption", {"image": data_uri(files[0])})
        assert (said.status, said.code) == (503, "deadline") and said.headers["retry-after"]
        stuck.set()
        for _ in range(10):
            if door("/v1/caption", {"image": data_uri(files[0])}).status == 200:
                break
        else:
            raise AssertionError("it never recovers")


def test_closed_decoders_have_ended() -> None:
    """Guards against a thread that comes back from decoding while the interpreter ends, which aborts the process."""
    before, decoding = set(threading.enumerate()), Decoders(2)

    async def slow() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(decoding.run(time.sleep, 0.3, limit_s=5, end=time.monotonic() + 5), 0.05)

    asyncio.run(slow())
    assert set(threading.enumerate()) > before
    decoding.close()
    assert set(threading.enumerate()) <= before


def raw(door: Door) -> socket.socket:
    place = urlsplit(door.address)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=10)


@pytest.mark.parametrize(("first", "begun"), [("", ""), ("", "POST /v1/ask HTTP/1.1\r\nHo"), (WHOLE, "GET /")])
def test_slow_heads_are_hung_up_on(model: Model, first: str, begun: str) -> None:
    """Guards against clients that hold every connection by never finishing a request's head, first or second."""
    with running(Service(model, "demo", ServerSettings(timeout_s=1.5))) as door, contextlib.ExitStack() as held:
        open_sockets = [held.enter_context(raw(door)) for _ in range(200)]
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
        place, open_sockets = urlsplit(door.address).netloc, [held.enter_context(raw(door)) for _ in range(50)]
        head = f"POST /v1/caption HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\n"
        for one in open_sockets:
            one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:40])
        assert door("/v1/caption", {"image": data_uri(files[0])}).status == 200, "others are answered meanwhile"
        for one in open_sockets:
            said = one.recv(65536)
            assert b" 408 " in said[:20] and b"body_too_slow" in said
