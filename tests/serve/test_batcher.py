"""One queue: refused at once when it is full, late and left requests are not computed, failures stay alone."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chiasm.serve.batcher import Batcher, DeadlinePassedError, QueueFullError

FAR = 1e9


class Gate:
    """Work that waits until it is opened, and keeps what it was given."""

    def __init__(self) -> None:
        self.open, self.began = threading.Event(), threading.Event()
        self.calls: list[list[Any]] = []

    def __call__(self, rows: list[Any]) -> list[Any]:
        self.calls.append(list(rows))
        self.began.set()
        assert self.open.wait(10)
        if any(row == "poison" for row in rows):
            raise ValueError("poison")
        return [row * 2 for row in rows]


def run(test: Callable[[Batcher, Gate], Awaitable[None]], max_rows: int = 8, capacity: int = 8) -> Batcher:
    async def inner() -> Batcher:
        batcher, gate = Batcher(max_rows, capacity), Gate()
        batcher.start()
        try:
            await asyncio.wait_for(test(batcher, gate), 10)
        finally:
            gate.open.set()
            await batcher.stop()
        return batcher

    return asyncio.run(inner())


async def began(gate: Gate) -> None:
    while not gate.began.is_set():
        await asyncio.sleep(0.001)


def test_waiting_requests_are_computed_together() -> None:
    """Guards against answers that reach another request than their own, and rows computed one by one."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.ensure_future(batcher.submit("a", [1], gate, FAR))
        await began(gate)
        others = [asyncio.ensure_future(batcher.submit("a", [10 * n, n], gate, FAR)) for n in range(2, 5)]
        other = asyncio.ensure_future(batcher.submit("b", ["x"], gate, FAR))
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await first == [2]
        assert [await one for one in others] == [[40, 4], [60, 6], [80, 8]]
        assert await other == ["xx"]
        assert gate.calls == [[1], [20, 2, 30, 3, 40, 4], ["x"]]

    assert run(test).stats.sizes == {1: 1, 7: 1}


def test_full_means_refused_at_once() -> None:
    """Guards against a queue that grows, room that is never given back, and a half of a request that is admitted."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        with batcher.room(6):
            start = time.monotonic()
            with pytest.raises(QueueFullError) as full, batcher.room(3):
                raise AssertionError("admitted")
            assert time.monotonic() - start < 0.05 and full.value.retry_after_s >= 1
            with batcher.room(2):
                assert batcher.is_full
        with batcher.room(8):
            assert batcher.admitted == 8
        assert batcher.admitted == 0

    assert run(test).stats.refused == 1


def test_late_and_left_requests_are_not_computed() -> None:
    """Guards against work for nobody, which an overloaded server has no time for."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.ensure_future(batcher.submit("a", [1], gate, FAR))
        await began(gate)
        left = asyncio.ensure_future(batcher.submit("a", [2], gate, FAR))
        late = asyncio.ensure_future(batcher.submit("a", [3], gate, time.monotonic() + 0.02))
        kept = asyncio.ensure_future(batcher.submit("a", [4], gate, FAR))
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(DeadlinePassedError):
            await late
        gate.open.set()
        assert await first == [2] and await kept == [8]
        assert gate.calls == [[1], [4]]

    stats = run(test).stats
    assert stats.late + stats.left == 2


def test_failure_stays_alone() -> None:
    """Guards against one request's mistake that is answered to all who stood beside it."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.ensure_future(batcher.submit("a", [0], gate, FAR))
        await began(gate)
        good = [asyncio.ensure_future(batcher.submit("a", [n], gate, FAR)) for n in (1, 2)]
        bad = asyncio.ensure_future(batcher.submit("a", ["poison"], gate, FAR))
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await first == [0] and [await one for one in good] == [[2], [4]]
        with pytest.raises(ValueError, match="poison"):
            await bad

    run(test)
