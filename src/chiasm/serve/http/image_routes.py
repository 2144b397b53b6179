"""/v1/images/generations in OpenAI's shape: prompts -> PNG files, whole or as they grow."""

import base64
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.image_sampling import FREE, SamplingConfig
from chiasm.serve.batcher import DeadlinePassedError
from chiasm.serve.drawer import Drawer, Read
from chiasm.serve.drawings import best
from chiasm.serve.engine import Model
from chiasm.serve.http import schemas
from chiasm.serve.http.bodies import JsonRoute
from chiasm.serve.http.draw_loop import Begun, Drawn, Order, Shown
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.routes import WRONG
from chiasm.serve.http.service import Service
from chiasm.serve.http.streaming import EventStream, as_event, failure, while_connected

SEED_BITS = 31
"""Of a seed that is drawn for a request without one: short enough to be typed."""


def drawing(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/v1", responses=WRONG, route_class=JsonRoute, tags=["OpenAI"])

    @router.post("/images/generations")
    async def generations(request: Request, body: schemas.ImagesRequest) -> Any:
        """Draw images of a prompt; as server-sent events that show them row by row, where `stream` is true."""
        service.check_model(body.model)
        service.need("draw")
        return await _generated(service, request, body)

    return router


async def _generated(service: Service, request: Request, body: schemas.ImagesRequest) -> Any:
    """The answer.

    Raises:
        ServedError: see `errors.CODES`; once a stream has begun, errors are events of it.
    """
    drawer, loop = service.drawer, service.drawings
    assert drawer is not None and loop is not None, "asked before"
    count = _candidates(service, body)
    service.check_count(count)
    _check_size(drawer, body.size)
    _check_start(body)
    sampling, read = sampling_of(drawer, body), _read(drawer, body.prompt)
    seed = secrets.randbits(SEED_BITS) if body.seed is None else body.seed
    async with AsyncExitStack() as stack:
        deadline = stack.enter_context(service.room(count))
        given = await _kept(service, drawer, request, body, deadline)
        began = time.monotonic()
        is_shown = body.stream and not body.best_of  # of candidates nobody knows yet which are kept
        shown = shown_rows(drawer.grid[0], body.partial_images) if is_shown else frozenset[int]()
        order = Order(read, range(seed, seed + count), sampling, shown, deadline, given)
        loop.join(order)
        stack.callback(loop.leave, order)
        stack.callback(lambda: service.batcher.tell((time.monotonic() - began) / count))
        images = _Images(service, drawer, body, order)
        await _told(while_connected(request, images.begun()))
        if body.stream:
            return EventStream(images.events(), stack.pop_all().aclose)
        return JSONResponse(await _told(while_connected(request, images.whole())))


def _candidates(service: Service, body: schemas.ImagesRequest) -> int:
    """Images that are drawn for a request.

    Raises:
        ServedError: more are to be kept than drawn, or nothing here ranks them.
    """
    wanted = body.n or 1
    if body.best_of is None:
        return wanted
    if service.ranker is None:
        raise ServedError("no_ranker", ["best_of"])
    if body.best_of < wanted:
        raise ServedError("best_of", ["best_of", "n"])
    return body.best_of


def _best_of_each(ranker: Model, requests: Sequence[tuple[Sequence[Drawn], int]]) -> list[list[Drawn]]:
    """Of the images of each request as many as it wants, the best first."""
    found = []
    for drawn, wanted in requests:
        by_seed = {one.drawing.evidence["seed"]: one for one in drawn}
        kept = best([one.drawing for one in drawn], ranker, len(drawn), wanted)
        found.append([replace(by_seed[one.evidence["seed"]], drawing=one) for one in kept])
    return found


def _check_start(body: schemas.ImagesRequest) -> None:
    wanted = [name for name in ("keep_rows", "mask") if getattr(body, name) is not None]
    if len(wanted) > (body.image is not None):
        raise ServedError("no_start", ["image", *wanted])


async def _kept(
    service: Service, drawer: Drawer, request: Request, body: schemas.ImagesRequest, deadline: float
) -> tuple[int, ...]:
    """Tokens that are kept of the request's image; () without one.

    Raises:
        ServedError: an image cannot be decoded, or what is kept leaves nothing to draw.
    """
    if body.image is None:
        return ()
    sent = [body.image] if body.mask is None else [body.image, body.mask]
    pixels = await service.pictures.prepared(sent, deadline)
    query = (pixels[0], pixels[1] if len(pixels) > 1 else None, body.keep_rows)
    (found,) = await service.compute(request, "kept", [query], partial(_kept_of_each, drawer), deadline)
    if not found:
        raise ServedError("nothing_kept", ["keep_rows", "mask"])
    return tuple(found)


def _kept_of_each(drawer: Drawer, queries: Sequence[tuple[Tensor, Tensor | None, int | None]]) -> list[tuple[int, ...]]:
    """Kept tokens of each query; () where nothing would be left to draw."""
    found: list[tuple[int, ...]] = []
    for query in queries:
        try:
            found.append(drawer.kept(*query))
        except InputError:
            found.append(())
    return found


def sampling_of(drawer: Drawer, body: schemas.ImagesRequest) -> SamplingConfig:
    """How a request wants its images drawn; what it does not say is as the run has it.

    Raises:
        ServedError: guidance of a model that was never trained without a caption.
    """
    sampling = drawer.model.sampling(
        temperature=body.temperature, top_k=body.top_k, top_p=body.top_p, guidance=body.guidance
    )
    try:
        drawer.task.check_sampling(sampling)
    except InputError:
        raise ServedError("guidance", ["guidance"]) from None
    return sampling


def shown_rows(rows: int, partial_images: int | None) -> frozenset[int]:
    """Numbers of rows after which a part of an image is shown: `partial_images` of them, evenly spread; None is all."""
    inner = rows - 1
    count = inner if partial_images is None else min(partial_images, inner)
    return frozenset(round((number + 1) * rows / (count + 1)) for number in range(count))


def _check_size(drawer: Drawer, size: str | None) -> None:
    width, height = drawer.size_px
    allowed = ("auto", f"{width}x{height}")
    if size is not None and size not in allowed:
        raise ServedError("size_not_drawn", ["size"], allowed=allowed)


def _read(drawer: Drawer, prompt: str) -> Read:
    try:
        return drawer.read(prompt)
    except InputError:
        raise ServedError("prompt_unknown", ["prompt"]) from None


async def _told(work: Any) -> Any:
    """Await something whose deadline may pass."""
    try:
        return await work
    except DeadlinePassedError:
        raise ServedError("deadline") from None


class _Images:
    """The images of one request, in OpenAI's shape."""

    def __init__(self, service: Service, drawer: Drawer, body: schemas.ImagesRequest, order: Order) -> None:
        self.batcher, self.order, self.is_url = service.batcher, order, body.response_format == "url"
        self.wanted, self.ranker = body.n or 1, None if body.best_of is None else service.ranker
        width, height = drawer.size_px
        self.head = {
            "background": "opaque",
            "output_format": "png",
            "quality": "auto",
            "size": f"{width}x{height}",
        }
        self.created, self.image_tokens = int(time.time()), drawer.grid[0] * drawer.grid[1]
        self.kept_tokens = sum(one != FREE for one in order.given)

    async def begun(self) -> None:
        """Wait for the place of the first image, so that what goes wrong before is an answer of its own."""
        first = await self.order.next()
        assert isinstance(first, Begun), "an order begins"

    async def whole(self) -> dict[str, Any]:
        """The images of an answer that is no stream."""
        data = [{**self._file(one.png), "chiasm": self._about(one)} for one in await self._chosen()]
        return {"created": self.created, "data": data, **self.head, "usage": self._usage(len(self.order.seeds))}

    async def _chosen(self) -> Sequence[Drawn]:
        """All images in the order of their seeds, or those that are ranked best, the best first."""
        found: dict[int, Drawn] = {}
        while len(found) < len(self.order.seeds):
            one = await self.order.next()
            assert isinstance(one, Drawn), "nobody asked for parts"
            found[one.number] = one
        drawn = [found[number] for number in sorted(found)]
        if self.ranker is None:
            return drawn
        work = partial(_best_of_each, self.ranker)
        (kept,) = await self.batcher.submit("rank", [(drawn, self.wanted)], work, self.order.deadline)
        return list(kept)

    async def events(self) -> AsyncIterator[str]:
        """Parts, then wholes, of each image; the images of an order may grow by turns. Ranked ones come whole."""
        parts, left = dict.fromkeys(range(len(self.order.seeds)), 0), len(self.order.seeds)
        try:
            if self.ranker is not None:
                for number, one in enumerate(await _told(self._chosen())):
                    spent = 1 if number else left - self.wanted + 1  # what was not kept counts with the first
                    yield self._completed(number, one, spent)
                return
            while left:
                one = await _told(self.order.next())
                if isinstance(one, Shown):
                    part = {"partial_image_index": parts[one.number], "rows": one.rows}
                    parts[one.number] += 1
                    yield self._event("partial_image", one.number, one.png, part)
                else:
                    left -= 1
                    yield self._completed(one.number, one, 1)
        except Exception as error:
            yield failure(error)

    def _completed(self, number: int, one: Drawn, images: int) -> str:
        """The event of a whole image, for which so many were drawn."""
        about = {"usage": self._usage(images), "chiasm": self._about(one)}
        return self._event("completed", number, one.png, about)

    def _event(self, kind: str, number: int, png: bytes, more: dict[str, Any]) -> str:
        """One event; `image_index` says which of several images it is of."""
        name = f"image_generation.{kind}"
        head = {**self.head, "background": "opaque" if kind == "completed" else "transparent"}
        content = {"type": name, **self._file(png), "created_at": self.created, **head, "image_index": number, **more}
        return as_event(content, name)

    def _file(self, png: bytes) -> dict[str, str]:
        """A PNG file in base64, or as a data URI."""
        written = base64.b64encode(png).decode()
        return {"url": f"data:image/png;base64,{written}"} if self.is_url else {"b64_json": written}

    def _about(self, one: Drawn) -> dict[str, Any]:
        """What `Model.drawings` says of an image, without its tokens."""
        domain, evidence = self.order.read.domain, one.drawing.evidence
        ranked = {} if self.ranker is None else {"rank_score": evidence["rank_score"]}
        return {
            "seed": evidence["seed"],
            "probability": one.drawing.confidence,
            "remarks": evidence["remarks"],
            "domain": None if domain is None else domain.as_dict(),
            **ranked,
        }

    def _usage(self, images: int) -> dict[str, Any]:
        """Tokens read, those kept of an image among them, and drawn."""
        text, kept = self.order.read.tokens, self.kept_tokens
        drawn = images * (self.image_tokens - kept)
        return {
            "input_tokens": text + kept,
            "input_tokens_details": {"text_tokens": text, "image_tokens": kept},
            "output_tokens": drawn,
            "total_tokens": text + kept + drawn,
        }
