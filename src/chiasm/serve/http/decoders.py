"""Threads that decode pictures; one that takes too long is left behind, and another takes its place.

Nothing can end a decoder from outside but the end of its process. So a request whose picture takes too long gets its
answer in time, the thread is forgotten and ends when its decoder does, and a new one serves the others. Threads that
were left behind are counted and bounded: with too many of them no new one starts, requests meet their deadline instead,
and the numbers at /metrics say why.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
MOST_LEFT = 16
"""Threads that may be busy with what nobody waits for any more, before no further one is started."""
CLOSE_S = 2.0
"""Longest wait for the threads when the server ends."""


class TooSlowError(Exception):
    """The work ran longer than it may."""


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[..., Any]
    given: tuple[Any, ...]
    done: "asyncio.Future[Any]"
    started: "asyncio.Future[_Worker]"
    is_wanted: bool = True


@dataclass(slots=True, eq=False)
class _Worker:
    """One thread. A daemon: a decoder that never ends must not keep the process from ending."""

    jobs: "queue.SimpleQueue[_Job | None]"
    is_left: bool = False
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._serve, name="decode", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while not self.is_left and (job := self.jobs.get()) is not None:
            if not job.is_wanted:
                continue
            loop = job.done.get_loop()
            try:
                loop.call_soon_threadsafe(_set, job.started, self, None)
                try:
                    found, error = job.work(*job.given), None
                except Exception as problem:  # handed to whoever waits
                    found, error = None, problem
                loop.call_soon_threadsafe(_set, job.done, found, error)
            except RuntimeError:  # the loop is closed: the server has ended meanwhile
                return


class Decoders:
    """Use `await decoders.run(work, *given, limit_s=5)`.

    Args:
        threads: how many work at once.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads, self._workers, self._left = threads, list[_Worker](), list[_Worker]()

    @property
    def left(self) -> int:
        """Threads that still run what nobody waits for any more."""
        self._left = [one for one in self._left if one.thread.is_alive()]
        return len(self._left)

    async def run(self, work: Callable[..., T], *given: object, limit_s: float, end: float) -> T:
        """What `work(*given)` returns or raises.

        Args:
            work: called in a thread.
            given: its arguments.
            limit_s: how long it may run.
            end: when nobody waits any more, on the clock of `time.monotonic`; also bounds the wait for a thread.

        Raises:
            TooSlowError: it runs longer than `limit_s`; its thread was replaced.
            TimeoutError: no thread was free before `end`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, given, loop.create_future(), loop.create_future())
        self._replace()
        self._jobs.put(job)
        try:
            worker = await asyncio.wait_for(job.started, max(0.0, end - time.monotonic()))
            await asyncio.wait({job.done}, timeout=limit_s)
            if not job.done.done():
                self._leave(worker)
                raise TooSlowError
            found: T = job.done.result()
            return found
        finally:
            job.is_wanted = False
            job.done.cancel()

    def close(self) -> None:
        """End the threads, and wait a moment for them: one that comes back to an interpreter that ends aborts it."""
        for worker in self._workers:
            worker.is_left = True
            self._jobs.put(None)
        end = time.monotonic() + CLOSE_S
        for worker in self._workers:
            worker.thread.join(max(0.0, end - time.monotonic()))

    def _leave(self, worker: _Worker) -> None:
        worker.is_left = True
        self._workers.remove(worker)
        self._left.append(worker)
        self._replace()

    def _replace(self) -> None:
        """Start as many threads as there should be, as long as not too many are stuck."""
        while len(self._workers) < self._threads and self.left < MOST_LEFT:
            self._workers.append(_Worker(self._jobs))


def _set(future: "asyncio.Future[Any]", value: Any, error: Exception | None) -> None:
    if future.done():  # cancelled: nobody waits
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
