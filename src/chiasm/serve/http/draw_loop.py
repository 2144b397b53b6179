"""Images of all clients, drawn in few batches, a token of each image a step.

One task of the event loop calls the batches in the model's thread, so that other requests are computed between two
steps. What waits together and is drawn alike goes in one batch; what comes later begins a batch of its own beside it,
as long as there are places. Callers hold their room in the batcher's queue meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from chiasm.core.types import Prediction
from chiasm.data.png import as_png
from chiasm.models.image_sampling import SamplingConfig
from chiasm.serve.batcher import Batcher, DeadlinePassedError, fetched
from chiasm.serve.drawer import Drawer, Read
from chiasm.serve.http.step_loop import StepLoop
from chiasm.tasks.drawing_requests import DrawingBatch, DrawRequest


@dataclass(frozen=True, slots=True)
class Begun:
    """The first image of an order has a place."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A part of an image.

    Attributes:
        number: of the image in its order, from 0.
        rows: rows of tokens that are whole.
        png: the image so far, transparent below these rows.
    """

    number: int
    rows: int
    png: bytes


@dataclass(frozen=True, slots=True)
class Drawn:
    """A whole image.

    Attributes:
        number: of the image in its order, from 0.
        drawing: with its evidence.
        png: the image, with text chunks.
    """

    number: int
    drawing: Prediction
    png: bytes


Event = Begun | Shown | Drawn


@dataclass(eq=False, slots=True)
class Order:
    """The images that one client waits for, and what happened and was not yet fetched.

    Attributes:
        read: the caption.
        seeds: of the images.
        sampling: how they are drawn.
        shown_rows: numbers of rows of tokens after which an image is shown.
        deadline: on the clock of `time.monotonic`.
        given: ids that are kept, see `DrawRequest`.
    """

    read: Read
    seeds: Sequence[int]
    sampling: SamplingConfig
    shown_rows: frozenset[int]
    deadline: float
    given: tuple[int, ...] = ()
    events: "asyncio.Queue[Event | Exception]" = field(default_factory=asyncio.Queue)
    has_begun: bool = False
    has_left: bool = False

    async def next(self) -> Event:
        """First `Begun`, then parts of images, and each image when it is whole.

        Raises:
            DeadlinePassedError: the images are not complete in time.
        """
        return await fetched(self.events, self.deadline)


@dataclass(eq=False, slots=True)
class _Canvas:
    """One image of an order."""

    order: Order
    number: int

    @property
    def request(self) -> DrawRequest:
        return DrawRequest(self.order.read.caption, self.order.seeds[self.number], self.order.given)


@dataclass(eq=False, slots=True)
class _Group:
    """Images that are drawn in one batch.

    Attributes:
        canvases: the images.
        batch: None before the first step.
        kept: places in the batch of these images, where others were dropped since the last step.
    """

    canvases: list[_Canvas]
    batch: DrawingBatch | None = None
    kept: list[int] | None = None


class DrawLoop(StepLoop):
    """Use `join`, `Order.next`, and always `leave`, all in the event loop.

    Args:
        batcher: whose thread computes.
        drawer: what draws.
        max_rows: most images that are drawn at once; others wait in order.
    """

    def __init__(self, batcher: Batcher, drawer: Drawer, max_rows: int) -> None:
        super().__init__(batcher, max_rows)
        self.drawer = drawer
        self._waiting: deque[_Canvas] = deque()
        self._open: list[_Group] = []

    def join(self, order: Order) -> None:
        """Begin to draw; the caller holds room for its images."""
        self._waiting.extend(_Canvas(order, number) for number in range(len(order.seeds)))
        self._go_on()

    def leave(self, order: Order) -> None:
        """Nobody reads on: the places of its images are free at the next step."""
        order.has_left = True

    @property
    def rows(self) -> int:
        """Images that are being drawn."""
        return sum(len(group.canvases) for group in self._open)

    # --- internal -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._waiting or self._open:
            self._let_go()
            self._open += self._joining()
            if not self._open:
                continue
            step = partial(self._step, list(self._open))
            events, _ = await self.batcher.in_thread(step, lambda done: done[1])
            for order, event in events:
                order.events.put_nowait(event)
            self._open = [group for group in self._open if group.canvases]

    def _let_go(self) -> None:
        """Drop the images of clients that have left."""
        gone: set[Order] = set()
        for group in self._open:
            kept = [place for place, one in enumerate(group.canvases) if not one.order.has_left]
            gone.update(one.order for one in group.canvases if one.order.has_left)
            if len(kept) < len(group.canvases):
                group.kept, group.canvases = kept, [group.canvases[place] for place in kept]
        self._open = [group for group in self._open if group.canvases]
        gone.update(one.order for one in self._waiting if one.order.has_left)
        self._waiting = deque(one for one in self._waiting if not one.order.has_left)
        self.batcher.stats.left += len(gone)

    def _joining(self) -> list[_Group]:
        """Those that have waited longest and have a place, by how they are drawn; who is late is dropped."""
        groups: dict[SamplingConfig, _Group] = {}
        places = self.max_rows - self.rows
        while self._waiting and places:
            one = self._waiting.popleft()
            order = one.order
            if order.deadline <= time.monotonic():
                self.batcher.stats.late += not one.number
                order.events.put_nowait(DeadlinePassedError())
                continue
            if not order.has_begun:
                order.has_begun = True
                order.events.put_nowait(Begun())
            groups.setdefault(order.sampling, _Group([])).canvases.append(one)
            places -= 1
        return list(groups.values())

    def _step(self, groups: Sequence[_Group]) -> tuple[list[tuple[Order, Event | Exception]], int]:
        """One token of every image, in the model's thread: what happened, and the number of images."""
        events: list[tuple[Order, Event | Exception]] = []
        count = self.rows
        for group in groups:
            try:
                events += self._stepped(group)
            except Exception as error:  # the other batches go on
                events += [(one.order, error) for one in group.canvases]
                group.canvases = []
        return events, count

    def _stepped(self, group: _Group) -> list[tuple[Order, Event | Exception]]:
        canvases = group.canvases
        if group.batch is None:
            remarks = {one.order.read.caption: one.order.read.remarks for one in canvases}
            group.batch = self.drawer.begin([one.request for one in canvases], canvases[0].order.sampling, remarks)
        elif group.kept is not None:
            group.batch.keep(group.kept)
        group.kept = None
        batch, before = group.batch, group.batch.rows_done
        batch.step()
        events: list[tuple[Order, Event | Exception]] = [
            (one.order, Shown(one.number, rows, as_png(batch.partial(place, rows))))
            for rows in range(before + 1, batch.rows_done + 1)
            for place, one in enumerate(canvases)
            if rows in one.order.shown_rows
        ]
        if batch.is_done:
            group.canvases = []
            events += [
                (one.order, Drawn(one.number, drawing, self.drawer.png(drawing, one.order.sampling)))
                for one, drawing in zip(canvases, batch.finish(), strict=True)
            ]
        return events
