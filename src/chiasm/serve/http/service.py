"""The layer between routes and model: checks names, decodes images, queues rows, and awaits or cancels answers."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request

from chiasm.core.errors import InputError
from chiasm.data.image import ImageError
from chiasm.serve.abilities import can, task_for
from chiasm.serve.batcher import Batcher, DeadlinePassedError, QueueFullError, Work
from chiasm.serve.drawer import Drawer
from chiasm.serve.engine import Model
from chiasm.serve.http.bodies import Held
from chiasm.serve.http.chat_loop import Conversations
from chiasm.serve.http.draw_loop import DrawLoop
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.guard import Health
from chiasm.serve.http.pictures import ImageDecoding
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index


class Service:
    """One model, perhaps one index and one ranking model, one queue.

    Args:
        model: what answers.
        name: model name in the API.
        settings: limits.
        index: what /v1/search looks through.
        ranker: a model that matches images with texts, which chooses among drawn images.

    Raises:
        MissingTaskError: the ranking model does not match.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        settings: ServerSettings,
        index: Index | None = None,
        ranker: Model | None = None,
    ) -> None:
        self.model, self.name, self.settings, self.index = model, name, settings, index
        if ranker is not None:
            task_for(ranker.pipeline, "match")
        self.ranker = ranker
        self.batcher = Batcher(settings.max_rows, settings.queue_rows)
        self.pictures = ImageDecoding(model, settings)
        self.conversations = Conversations(self.batcher, lambda: model.talker, settings.max_rows)
        self.drawer = Drawer(model) if can(model.tasks, "draw") else None
        """What draws; None where the model does not."""
        self.drawings = None if self.drawer is None else DrawLoop(self.batcher, self.drawer, settings.max_rows)
        self.health = Health()
        self.held = Held(settings.max_held_bytes)
        self.created = int(time.time())

    async def stop(self) -> None:
        """End what draws and talks, then the batcher and the decoders."""
        await self.conversations.stop()
        if self.drawings is not None:
            await self.drawings.stop()
        await self.batcher.stop()
        self.pictures.close()

    def can(self, what: str) -> bool:
        """Whether clients can do this with the model."""
        if what == "search":
            return self.index is not None
        return can(self.model.tasks, what)

    def need(self, what: str) -> None:
        """Reject a verb that the model does not support."""
        if not self.can(what):
            raise ServedError("no_index" if what == "search" else "task_not_trained")

    def check_model(self, name: str) -> None:
        """Refuse a request for another model."""
        if name and name != self.name:
            raise ServedError("model_not_found", ["model"])

    def check_count(self, count: int) -> None:
        """Refuse more rows than one request may have."""
        if count > self.settings.max_items:
            raise ServedError("too_many_items")

    def paired(self, images: str | list[str], texts: str | list[str], what: str) -> tuple[list[str], list[str]]:
        """Lists of one length; a single one is repeated."""
        many_images = [images] if isinstance(images, str) else images
        many_texts = [texts] if isinstance(texts, str) else texts
        count = max(len(many_images), len(many_texts))
        if isinstance(images, str):
            many_images = many_images * count
        if isinstance(texts, str):
            many_texts = many_texts * count
        if len(many_images) != len(many_texts):
            raise ServedError("invalid_request", ["image", what])
        self.check_count(count)
        return many_images, many_texts

    def room(self, rows: int) -> "_Admission":
        """Room in the queue for the rows of a request, or the answer that there is none.

        Entering it gives the request's deadline, on the clock of `time.monotonic`, for all that follows.
        """
        return _Admission(self.batcher, rows, self.settings.timeout_s)

    async def each(
        self, request: Request, kind: Hashable, images: str | list[str], work: Callable[[list[Any]], Sequence[Any]]
    ) -> Sequence[Any]:
        """Answers to images: decoded, then computed with those of other requests of this kind."""
        given = [images] if isinstance(images, str) else images
        self.check_count(len(given))
        with self.room(len(given)) as deadline:
            rows: list[Any] = list(await self.pictures.prepared(given, deadline))
            return await self.compute(request, kind, rows, work, deadline)

    async def pairs(
        self,
        request: Request,
        kind: Hashable,
        images: list[str],
        texts: list[str],
        work: Callable[[list[Any], list[str]], Sequence[Any]],
    ) -> Sequence[Any]:
        """Answers to images with a text each, as `paired` makes them."""
        with self.room(len(images)) as deadline:
            rows = list(zip(await self.pictures.prepared(images, deadline), texts, strict=True))

            def paired(some: list[Any]) -> Sequence[Any]:
                return work([one for one, _ in some], [text for _, text in some])

            return await self.compute(request, kind, rows, paired, deadline)

    async def compute(
        self, request: Request, kind: Hashable, rows: list[Any], work: Work, deadline: float
    ) -> Sequence[Any]:
        """Answers to rows, computed with those of others; abandoned when the client has left.

        Raises:
            ServedError: "deadline", or that the model cannot read a text.
        """
        answering = asyncio.ensure_future(self.batcher.submit(kind, rows, work, deadline))
        leaving = asyncio.ensure_future(client_left(request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ServedError("deadline")  # nobody reads it: the client is gone
            return answering.result()
        except DeadlinePassedError:
            raise ServedError("deadline") from None
        except ImageError as error:
            raise ServedError(f"image_{error.code}") from None
        except InputError:
            raise ServedError("text_unreadable") from None
        finally:
            answering.cancel()
            leaving.cancel()


class _Admission:
    def __init__(self, batcher: Batcher, rows: int, timeout_s: float) -> None:
        self._room, self._timeout_s = batcher.room(rows), timeout_s

    def __enter__(self) -> float:
        try:
            self._room.__enter__()
        except QueueFullError as full:
            raise ServedError("busy", retry_after_s=full.retry_after_s) from None
        return time.monotonic() + self._timeout_s

    def __exit__(self, *given: object) -> None:
        self._room.__exit__(*given)


async def client_left(request: Request) -> None:
    """Return when the client is gone; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def name_of(run: str) -> str:
    """Model name of a run in the API: the name of its folder."""
    return Path(run).resolve().name if run != "starter" else run
