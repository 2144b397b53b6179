"""Slow decoders cost themselves, and nobody else."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from doors import data_uri, running

from chiasm.serve.engine import Model
from chiasm.serve.http import decoders
from chiasm.serve.http.decoders import Decoders
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index

STUCK = b"stuck"


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
