"""Dynamic batching: one bounded queue and one model thread.

A request is admitted or refused at once. An admitted request is computed before its deadline or fails with
`DeadlinePassedError`; cancelled requests are not computed. An error in one request does not affect the others.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[list[Any]], Sequence[Any]]
"""Rows of one kind, from one or more requests -> one answer per row, in order."""

COMPANY_S = 0.004
"""Longest wait for a fuller batch; a single client never waits. The demo takes 6.6 ms of CPU per row in a batch of 1
and 0.8 ms in a batch of 32."""


class QueueFullError(Exception):
    """The queue is full; retry after `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("no room")
        self.retry_after_s = retry_after_s


class DeadlinePassedError(Exception):
    """The request was not answered before its deadline."""


async def fetched(events: "asyncio.Queue[T | Exception]", deadline: float) -> T:
    """The next event of a queue, before a deadline on the clock of `time.monotonic`.

    Raises:
        DeadlinePassedError: none came in time.
        Exception: the event, where it is one.
    """
    try:
        found = await asyncio.wait_for(events.get(), max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise DeadlinePassedError from None
    if isinstance(found, Exception):
        raise found
    return found


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request. `work` computes jobs of one `kind` in one batch."""

    kind: Hashable
    rows: list[Any]
    work: Work
    deadline: float
    """On the clock of `time.monotonic`."""
    answers: "asyncio.Future[Sequence[Any]]"


@dataclass(slots=True)
class BatcherStats:
    """Counters of the batcher."""

    batches: int = 0
    rows: int = 0
    refused: int = 0
    """Requests refused because the queue was full."""
    late: int = 0
    """Requests whose deadline passed in the queue."""
    left: int = 0
    """Requests cancelled before they were computed."""
    seconds: float = 0.0
    """Time in the model."""
    sizes: dict[int, int] = field(default_factory=dict)
    """Batch size -> number of batches."""


class Batcher:
    """Use `with batcher.room(rows)`, and in it `submit`.

    Args:
        max_rows: largest batch size, in rows.
        capacity: largest number of rows admitted and not yet answered; further requests are refused.
    """

    def __init__(self, max_rows: int, capacity: int) -> None:
        self.max_rows, self.capacity = max_rows, capacity
        self.stats = BatcherStats()
        self.admitted = 0
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop_task: asyncio.Task[None] | None = None
        self._row_s = 0.01
        self._last_rows = 0

    def start(self) -> None:
        """Start computing; call it in the event loop."""
        self._loop_task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop; jobs still waiting are cancelled."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for job in self._waiting:
            job.answers.cancel()
        self._thread.shutdown(wait=True)

    @property
    def is_full(self) -> bool:
        """Whether the queue has no room for a row."""
        return self.admitted >= self.capacity

    @property
    def retry_after_s(self) -> int:
        """Estimated time until the queue has room, in whole seconds, at least 1."""
        return max(1, round(self.admitted * self._row_s))

    def room(self, rows: int) -> "_Room":
        """Reserve room for `rows` until the block ends.

        Raises:
            QueueFullError: at once, on entering.
        """
        return _Room(self, rows)

    async def submit(self, kind: Hashable, rows: list[Any], work: Work, deadline: float) -> Sequence[Any]:
        """Compute rows in reserved room and return their answers; cancelling withdraws the rows.

        Raises:
            DeadlinePassedError: see the class.
            Exception: whatever `work` raises for these rows alone.
        """
        job = Job(kind, rows, work, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        try:
            return await asyncio.wait_for(job.answers, max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise DeadlinePassedError from None

    async def in_thread(self, work: Callable[[], T], rows: Callable[[T], int]) -> T:
        """Compute something of one's own in the model's thread, between two batches.

        Args:
            work: what is called there.
            rows: its result -> the number of rows that were computed, for the counters.
        """
        start = time.monotonic()
        found = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._count(rows(found), time.monotonic() - start)
        return found

    def tell(self, row_s: float) -> None:
        """Learn how long a row took from its admission to its answer, for `retry_after_s`."""
        self._row_s = 0.8 * self._row_s + 0.2 * row_s

    def _count(self, rows: int, spent_s: float) -> None:
        stats = self.stats
        stats.batches, stats.rows, stats.seconds = stats.batches + 1, stats.rows + rows, stats.seconds + spent_s
        stats.sizes[rows] = stats.sizes.get(rows, 0) + 1

    # --- the loop -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await self._company()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            rows = sum(len(job.rows) for job in batch)
            start = time.monotonic()
            outcomes = await loop.run_in_executor(self._thread, _compute, batch)
            spent, self._last_rows = time.monotonic() - start, rows
            self.tell(spent / max(rows, 1))
            self._count(rows, spent)
            for job, (answers, error) in zip(batch, outcomes, strict=True):
                if job.answers.done():
                    continue
                if error is not None:
                    job.answers.set_exception(error)
                else:
                    job.answers.set_result(answers)

    async def _company(self) -> None:
        """After a large batch, wait up to `COMPANY_S` until half as many rows are queued again."""
        end = time.monotonic() + COMPANY_S
        while sum(len(job.rows) for job in self._waiting) < self._last_rows // 2 and time.monotonic() < end:
            await asyncio.sleep(COMPANY_S / 8)

    def _take(self) -> list[Job]:
        """The oldest jobs that fit in one batch; late and cancelled jobs are dropped."""
        batch: list[Job] = []
        rows, now = 0, time.monotonic()
        while self._waiting:
            job = self._waiting[0]
            if job.answers.done() or job.deadline <= now:
                self._waiting.popleft()
                self._drop(job, now)
                continue
            if batch and rows + len(job.rows) > self.max_rows:
                break
            batch.append(self._waiting.popleft())
            rows += len(job.rows)
        return batch

    def _drop(self, job: Job, now: float) -> None:
        if job.deadline <= now:
            self.stats.late += 1
        else:
            self.stats.left += 1
        if not job.answers.done():
            job.answers.set_exception(DeadlinePassedError())


class _Room:
    """The reservation of `Batcher.room`."""

    def __init__(self, batcher: Batcher, rows: int) -> None:
        self.batcher, self.rows = batcher, rows

    def __enter__(self) -> None:
        batcher = self.batcher
        if batcher.admitted + self.rows > batcher.capacity:
            batcher.stats.refused += 1
            raise QueueFullError(batcher.retry_after_s)
        batcher.admitted += self.rows

    def __exit__(self, *_: object) -> None:
        self.batcher.admitted -= self.rows


Outcome = tuple[Sequence[Any], Exception | None]


def _compute(batch: list[Job]) -> list[Outcome]:
    """Compute each kind in one batch, in the model thread; if that fails, each job alone."""
    kinds: dict[Hashable, list[Job]] = {}
    for job in batch:
        kinds.setdefault(job.kind, []).append(job)
    found: dict[int, Outcome] = {}
    for jobs in kinds.values():
        outcomes = _together(jobs)
        found.update({id(job): outcome for job, outcome in zip(jobs, outcomes, strict=True)})
    return [found[id(job)] for job in batch]


def _together(jobs: list[Job]) -> list[Outcome]:
    rows = [row for job in jobs for row in job.rows]
    try:
        answers = jobs[0].work(rows)
    except Exception as error:  # one request may be invalid; compute the others without it
        return [((), error)] if len(jobs) == 1 else [outcome for job in jobs for outcome in _together([job])]
    assert len(answers) == len(rows), f"{len(answers)} answers to {len(rows)} rows"
    outcomes: list[Outcome] = []
    at = 0
    for job in jobs:
        outcomes.append((answers[at : at + len(job.rows)], None))
        at += len(job.rows)
    return outcomes
