"""The ASGI application: routes, web page and error handlers."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import metadata, resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from chiasm.serve.http import schemas
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.guard import Guard
from chiasm.serve.http.image_routes import drawing
from chiasm.serve.http.metrics import Metrics
from chiasm.serve.http.openai import speaking_openai
from chiasm.serve.http.routes import answering, searching, telling
from chiasm.serve.http.service import Service

log = logging.getLogger("chiasm.serve")
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/words.js": ("words.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/draw.js": ("draw.js", "text/javascript"),
}
TOLD = (
    "Ask a vision-language model, search with it, name images by labels of your own, and have images drawn. "
    "Images are data URIs. "
    'Errors are `{"error": {"code", "message", "type", "id"}}` with fixed codes.'
)


def build_app(service: Service) -> Guard:
    """Build the ASGI application."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="chiasm",
        description=TOLD,
        version=metadata.version("chiasm"),
        lifespan=lifespan,
        docs_url=None,  # the interactive pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = (answering(service), speaking_openai(service), drawing(service), searching(service))
    for router in (*routers, telling(service, metrics)):
        app.include_router(router)
    for address, (name, kind) in PAGE.items():
        content = resources.files("chiasm.serve.page").joinpath(name).read_bytes()
        app.add_api_route(address, _file(content, kind), include_in_schema=False)
    _answer_errors(app)
    return Guard(app, service.settings, service.batcher, metrics, service.health, service.held)  # type: ignore[arg-type]


def _file(content: bytes, kind: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return send


def _answer_errors(app: FastAPI) -> None:
    """Map every error to a fixed code; unexpected errors are logged under the request id in the response."""

    @app.exception_handler(ServedError)
    async def served(_: Request, error: ServedError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        if any(one["type"] == "json_invalid" for one in error.errors()):
            return ServedError("not_json").response()
        return ServedError("invalid_request", fields_of(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, ServedError):  # raised while the body was read
            return error.__cause__.response()
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "not_json")
        return ServedError(code).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        told = ServedError("internal")
        log.error("request %s failed: %s", told.id, type(error).__name__, exc_info=error)
        return told.response()


_KNOWN = frozenset(
    name
    for one in vars(schemas).values()
    if isinstance(one, type) and issubclass(one, BaseModel)
    for name in one.model_fields
)


def fields_of(errors: Sequence[Any]) -> list[str]:
    """The invalid fields of a request, by the names of the API; contains no data from the request."""
    places = [
        ".".join(str(part) for part in error["loc"][1:] if isinstance(part, int) or part in _KNOWN) for error in errors
    ]
    return sorted({place for place in places if place})[:20]
