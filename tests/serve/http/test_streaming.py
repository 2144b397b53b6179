"""Server-sent events, and a client that leaves."""

import asyncio
import json
import logging
from typing import Any

import pytest

from chiasm.serve.batcher import DeadlinePassedError, fetched
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.streaming import EventStream, as_event, failure, while_connected


class Connection:
    """A request whose client leaves when `gone` is set."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_events_are_lines() -> None:
    """Guards against a text with line ends that ends an event, and words that are escaped."""
    event = as_event({"text": "一\n\nb"}, "named")
    assert event == 'event: named\ndata: {"text": "一\\n\\nb"}\n\n' and as_event({}) == "data: {}\n\n"


def test_a_failure_says_no_more_than_its_code(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        told = json.loads(failure(RuntimeError("secret")).removeprefix("data: "))["error"]
        assert told["code"] == "internal" and "secret" not in json.dumps(told) and told["id"] in caplog.text
        caplog.clear()
        assert json.loads(failure(ServedError("deadline")).removeprefix("data: "))["error"]["code"] == "deadline"
        assert not caplog.records


def test_work_ends_with_its_client() -> None:
    """Guards against work that goes on for nobody, and an answer that waits for a client to leave."""

    async def run() -> None:
        connection, ended = Connection(), asyncio.Event()

        async def work() -> int:
            try:
                await asyncio.sleep(10)
            finally:
                ended.set()
            return 1

        asyncio.get_running_loop().call_later(0.02, connection.gone.set)
        with pytest.raises(ServedError, match="deadline"):
            await while_connected(connection, work())  # type: ignore[arg-type]
        await asyncio.wait_for(ended.wait(), 1)
        assert await while_connected(Connection(), asyncio.sleep(0, 7)) == 7  # type: ignore[arg-type]

    asyncio.run(run())


def test_events_are_fetched_in_time() -> None:
    async def run() -> None:
        queue: asyncio.Queue[int | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for one in (5, ValueError("planted")):
            queue.put_nowait(one)
        assert await fetched(queue, loop.time() + 5) == 5
        with pytest.raises(ValueError, match="planted"):
            await fetched(queue, loop.time() + 5)
        with pytest.raises(DeadlinePassedError):
            await fetched(queue, loop.time() + 0.01)

    asyncio.run(run())


@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_a_stream_frees_what_it_holds(fails: bool) -> None:
    async def run() -> None:
        closed, sent = asyncio.Event(), []

        async def events() -> Any:
            yield "data: 1\n\n"
            if fails:
                raise RuntimeError("planted")

        async def close() -> None:
            closed.set()

        async def send(message: Any) -> None:
            sent.append(message)

        stream = EventStream(events(), close)
        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        if fails:
            with pytest.raises(RuntimeError, match="planted"):
                await stream(scope, Connection().receive, send)
        else:
            await stream(scope, Connection().receive, send)
        assert closed.is_set() and any(one.get("body") == b"data: 1\n\n" for one in sent)

    asyncio.run(run())
