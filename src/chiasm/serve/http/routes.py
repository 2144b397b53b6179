"""The native routes: ask, caption, classify, match, search, and the state of the server."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from chiasm.core.errors import InputError
from chiasm.core.types import Prediction
from chiasm.data.image import REASONS
from chiasm.data.prompts import expanded
from chiasm.serve.abilities import NEEDS
from chiasm.serve.http import schemas
from chiasm.serve.http.bodies import JsonRoute
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.metrics import Metrics
from chiasm.serve.http.service import Service
from chiasm.serve.index import Hit, Index
from chiasm.serve.index.strength import Strength

THUMBNAIL_PX = 480
WRONG: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": told}
    for status, told in (
        (400, "No JSON."),
        (401, "No token."),
        (403, "Another site's page, or another name."),
        (404, "Nothing there."),
        (405, "Another method."),
        (408, "Too slow."),
        (413, "Too large."),
        (415, "Another type than JSON."),
        (422, "A request that does not fit, an image that cannot be used, or a task that was not trained."),
        (500, "An internal error of the server."),
        (503, "Full, late or stopping; see Retry-After."),
    )
}


def answering(service: Service) -> APIRouter:
    """Routes to the model."""
    router, model = APIRouter(prefix="/v1", responses=WRONG, route_class=JsonRoute, tags=["answers"]), service.model

    @router.post("/ask", response_model=schemas.AskAnswer)
    async def ask(request: Request, body: schemas.AskRequest) -> Any:
        """Answer questions about images."""
        service.need("ask")
        images, questions = service.paired(body.image, body.question, "question")

        def work(rows: list[Any], texts: list[str]) -> list[Prediction]:
            return model.ask(rows, texts, body.heat_map)

        found = await service.pairs(request, ("ask", body.heat_map), images, questions, work)
        return JSONResponse({"answers": [{"answer": one.answer, **one.as_dict()} for one in found]})

    @router.post("/caption", response_model=schemas.CaptionAnswer)
    async def caption(request: Request, body: schemas.CaptionRequest) -> Any:
        """Write a caption for each image."""
        return JSONResponse({"captions": [_caption(one) for one in await captions_of(service, request, body)]})

    @router.post("/classify", response_model=schemas.ClassifyAnswer)
    async def classify(request: Request, body: schemas.ClassifyRequest) -> Any:
        """Classify images among the model's classes, or zero-shot among your labels."""
        service.need("classify")
        try:
            labels, prompts = model.choices(body.labels), expanded(body.prompts)
        except InputError:
            raise ServedError("labels", ["labels", "prompts"]) from None
        kind = ("classify", labels, prompts)
        found = await service.each(request, kind, body.image, lambda rows: model.classify(rows, labels, prompts))
        return JSONResponse({"classes": [{"label": one.answer, **one.as_dict()} for one in found]})

    @router.post("/match", response_model=schemas.MatchAnswer)
    async def match(request: Request, body: schemas.MatchRequest) -> Any:
        """Score how well texts match images."""
        service.need("match")
        images, texts = service.paired(body.image, body.text, "text")
        found = await service.pairs(request, "match", images, texts, model.match)
        return JSONResponse({"matches": [one.as_dict() for one in found]})

    return router


async def captions_of(service: Service, request: Request, body: schemas.CaptionRequest) -> list[Prediction]:
    """Captions for a request of ours, or for one that a chat amounts to."""
    service.need("caption")
    if body.language and body.language not in service.model.languages:
        raise ServedError("language_unknown", ["language"])
    kind = ("caption", body.language, body.heat_map)
    return list(
        await service.each(
            request, kind, body.image, lambda rows: service.model.caption(rows, body.language, body.heat_map)
        )
    )


def _caption(one: Prediction) -> dict[str, Any]:
    return {"caption": one.answer, **one.as_dict()}


def searching(service: Service) -> APIRouter:
    """Routes to the index."""
    router = APIRouter(prefix="/v1", responses=WRONG, route_class=JsonRoute, tags=["search"])

    @router.post("/search", response_model=schemas.SearchAnswer)
    async def search(request: Request, body: schemas.SearchRequest) -> Any:
        """Find images of the index by words, by an image, or by both."""
        service.need("search")
        index = service.index
        assert index is not None, "asked before"
        if not body.text.strip() and body.image is None:
            raise ServedError("no_query", ["text", "image"])
        with service.room(1) as deadline:
            image = None if body.image is None else (await service.pictures.prepared([body.image], deadline))[0]
            query: dict[str, Any] = {"text": body.text, "image": image, "count": body.count}
            query |= {"where": dict(body.where) or None, "rerank": body.rerank}
            ((hits, judged),) = await service.compute(
                request, "search", [query], lambda some: [_found(index, one) for one in some], deadline
            )
        fits = (None,) * len(hits) if judged is None else judged.fits
        return {
            "weak": None if judged is None else judged.is_weak,
            "hits": [
                {
                    "id": hit.id,
                    "similarity": hit.similarity,
                    "score": hit.score,
                    "fits": fit,
                    "metadata": dict(hit.metadata),
                    "picture": f"/v1/pictures/{quote(hit.id, safe='')}",
                }
                for hit, fit in zip(hits, fits, strict=True)
            ],
        }

    @router.get("/pictures/{id:path}", response_class=Response)
    async def picture(id: str) -> Response:  # noqa: A002  the word of the address
        """A small JPEG of an indexed image, decoded and written anew: the file itself is never sent."""
        service.need("search")
        try:
            content = await service.pictures.thumbnail(partial(_indexed, service, id), THUMBNAIL_PX)
        except (InputError, LookupError, OSError, ValueError):
            raise ServedError("picture_not_found") from None
        except ServedError as error:
            is_unusable = error.code.removeprefix("image_") in REASONS
            raise (ServedError("picture_not_found") if is_unusable else error) from None
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return router


def _indexed(service: Service, id: str) -> bytes:  # noqa: A002
    assert service.index is not None, "asked before"
    return service.index.picture(id)


def _found(index: Index, query: dict[str, Any]) -> tuple[list[Hit], Strength | None]:
    """The hits of a query, and whether they fit where it has only words."""
    hits = index.search(None, **query)
    return hits, index.strength(query["text"], hits, query["where"]) if query["image"] is None else None


def telling(service: Service, metrics: Metrics) -> APIRouter:
    """Routes to the state of the server."""
    router = APIRouter(responses=WRONG, route_class=JsonRoute, tags=["server"])

    @router.get("/v1/models")
    async def models() -> Any:
        """The model, in OpenAI's shape, with what it can do."""
        return {"object": "list", "data": [_described(service)]}

    @router.get("/v1/example", response_class=Response)
    async def example() -> Response:
        """The image that the run folder keeps as its example, a PNG file."""
        stored = service.model.pipeline.example
        if stored is None:
            raise ServedError("picture_not_found")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(stored.png, media_type="image/png", headers=headers)

    @router.get("/healthz")
    async def healthz() -> Any:
        """The process is alive."""
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """Whether the server accepts requests: model loaded, room in the queue, and not stopping."""
        if service.health.is_draining:
            return cast(Response, ServedError("draining").response())
        if service.batcher.is_full:
            return ServedError("busy", retry_after_s=service.batcher.retry_after_s).response()
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics_page() -> Response:
        """Counts and times in Prometheus' format."""
        return Response(
            metrics.text(
                service.batcher,
                service.health.open_requests,
                service.pictures.decoders.killed,
                service.held.total_bytes,
                service.model.plan,
            ),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    return router


def _described(service: Service) -> dict[str, Any]:
    """The model as `/v1/models` lists it."""
    named = ("max_items", "max_body_bytes", "max_new_tokens", "max_messages", "max_chat_images")
    found = {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "chiasm",
        "tasks": list(service.model.tasks),
        "languages": list(service.model.languages),
        "can": {what: service.can(what) for what in NEEDS},
        "classes": list(service.model.classes),
        "trained_on": _trained_on(service),
        "example": _example(service),
        "index_size": None if service.index is None else len(service.index),
        "limits": {name: getattr(service.settings, name) for name in named},
    }
    if service.can("caption"):
        found["caption_confidence"] = service.model.caption_confidence
    return found | _drawing(service)


def _drawing(service: Service) -> dict[str, Any]:
    """What the model draws, and how where a request says nothing."""
    drawer = service.drawer
    if drawer is None:
        return {}
    width, height = drawer.size_px
    told = {"size": f"{width}x{height}", "grid": list(drawer.grid), "run": drawer.run}
    return {"drawing": {**told, "sampling": asdict(drawer.sampling), "ranks": service.ranker is not None}}


def _trained_on(service: Service) -> dict[str, str] | None:
    """The training data: recipe, source, and last part of the path; None if unknown."""
    config = service.model.pipeline.config
    if service.model.pipeline.example is None:  # no run of ours: nobody here has trained it
        return None
    return {"recipe": config.recipe, "source": config.data.source, "name": Path(config.data.path).name}


def _example(service: Service) -> dict[str, Any] | None:
    """Where the run's example image is, and words that suit it."""
    stored = service.model.pipeline.example
    if stored is None:
        return None
    words = {name: list(getattr(stored, name)) for name in ("questions", "texts", "others")}
    return {"picture": "/v1/example", **words}
