"""A pool of child processes that decode images, with limits of time and memory; a child over a limit is killed.

Processes can be killed and limited in memory, threads cannot, so client data are decoded only in children
(`data.decoding_child`). The children keep their imports loaded; a child that is killed or crashes is replaced at once,
and only its request fails.
"""

import asyncio
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from chiasm.data.decoding_child import receive, send

T = TypeVar("T")
COMMAND = (sys.executable, "-m", "chiasm.data.decoding_child")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**22)}
"""One thread; and what a large image took is given back, where glibc would keep 100 MiB of it in its heap."""
START_S = 60.0
"""Longest time that a child may take to start."""
CLOSE_S = 2.0
"""Longest wait for the threads when the server ends."""


class TooSlowError(Exception):
    """Decoding exceeded the time limit; the child was killed."""


class TooHeavyError(Exception):
    """Decoding exceeded the memory limit, or the child died."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The response of a child: head and bytes."""

    head: Mapping[str, Any]
    content: bytearray


@dataclass(slots=True, eq=False)
class _Job:
    order: Mapping[str, Any]
    read: Callable[[], bytes]
    limit_s: float
    end: float
    done: "asyncio.Future[Decoded]"
    started: "asyncio.Future[None]"
    is_wanted: bool = True


class _Child:
    """One process."""

    def __init__(self, max_pixels: int) -> None:
        self.connection, theirs = socket.socketpair()
        environment = {**os.environ, **ENVIRONMENT}
        try:
            self.process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno()), str(max_pixels)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the server, which answers what is open first
            )
        finally:
            theirs.close()
        self.connection.settimeout(START_S)
        receive(self.connection)

    def ask(self, job: _Job, content: bytes, one_at_once: threading.Lock) -> Decoded:
        """Decode one image.

        Raises:
            TimeoutError: it took too long, or no large image could be begun before the request's end.
            ConnectionError: the process has ended.
        """
        end = time.monotonic() + job.limit_s
        self.connection.settimeout(job.limit_s)
        send(self.connection, dict(job.order), content)
        head, found = self._answer(end)
        if head.get("large"):
            may_begin = one_at_once.acquire(timeout=max(0.0, job.end - time.monotonic()))
            try:
                send(self.connection, {"go": may_begin})
                head, found = self._answer(time.monotonic() + job.limit_s)
            finally:
                if may_begin:
                    one_at_once.release()
            if not may_begin:
                head = {"late": True}
        return Decoded(head, found)

    def _answer(self, end: float) -> tuple[dict[str, Any], bytearray]:
        self.connection.settimeout(max(0.001, end - time.monotonic()))
        return receive(self.connection)

    def kill(self) -> None:
        """End it, whatever it is at."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


class Decoders:
    """Use `await decoders.run(order, read, limit_s=5, end=...)`.

    Args:
        children: how many decode at once.
        max_pixels: of the largest image.
    """

    def __init__(self, children: int, max_pixels: int) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._count, self._max_pixels = children, max_pixels
        self._threads: list[threading.Thread] = []
        self._one_at_once, self._is_closed = threading.Lock(), False
        self.killed = 0
        """Children that took too long, too much memory, or died."""

    def start(self) -> None:
        """Start the children, if they do not live already."""
        while len(self._threads) < self._count and not self._is_closed:
            # A daemon: a decoder that never ends must not keep the process from ending.
            self._threads.append(threading.Thread(target=self._serve, name="decode", daemon=True))
            self._threads[-1].start()

    async def run(self, order: Mapping[str, Any], read: Callable[[], bytes], limit_s: float, end: float) -> Decoded:
        """What a child makes of an image.

        Args:
            order: see `data.decoding_child`.
            read: gives the image's bytes; called in a thread, and what it raises is raised here.
            limit_s: how long decoding may take.
            end: when nobody waits any more, on the clock of `time.monotonic`; bounds the wait for a child.

        Raises:
            TooSlowError: it takes longer than `limit_s`; its child was replaced.
            TooHeavyError: it takes too much memory, or its child died.
            TimeoutError: no child was free before `end`.
        """
        loop = asyncio.get_running_loop()
        job = _Job(order, read, limit_s, end, loop.create_future(), loop.create_future())
        self.start()
        self._jobs.put(job)
        try:
            await asyncio.wait_for(job.started, max(0.0, end - time.monotonic()))
            return await job.done
        finally:
            job.is_wanted = False
            job.done.cancel()

    def close(self) -> None:
        """End the children, and wait a moment for the threads."""
        self._is_closed = True
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _serve(self) -> None:
        """One thread and its child, for as long as the server lives."""
        child = _Child(self._max_pixels)
        try:
            while (job := self._jobs.get()) is not None:
                if not job.is_wanted:
                    continue
                loop = job.done.get_loop()
                try:
                    loop.call_soon_threadsafe(_set, job.started, None, None)
                    try:
                        found, error = self._asked(child, job), None
                    except Exception as problem:  # handed to whoever waits
                        found, error = None, problem
                    loop.call_soon_threadsafe(_set, job.done, found, error)
                except RuntimeError:  # the loop is closed: the server has ended meanwhile
                    return
                if isinstance(error, TooSlowError | TooHeavyError):
                    self.killed += 1
                    child.kill()
                    child = _Child(self._max_pixels)
                found = error = job = None
        finally:
            child.kill()

    def _asked(self, child: _Child, job: _Job) -> Decoded:
        content = job.read()
        try:
            found = child.ask(job, content, self._one_at_once)
        except TimeoutError:
            raise TooSlowError from None
        except OSError:
            raise TooHeavyError from None
        if found.head.get("late"):
            raise TimeoutError
        if found.head.get("memory"):
            raise TooHeavyError
        return found


def _set(future: "asyncio.Future[Any]", value: Any, error: Exception | None) -> None:
    if future.done():  # cancelled: nobody waits
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
