"""Routes in OpenAI's shape, so that clients that people have work unchanged: embeddings, and chat about an image."""

import base64
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from chiasm.core.types import Prediction
from chiasm.data.script import language_of
from chiasm.serve.http import schemas
from chiasm.serve.http.bodies import JsonRoute
from chiasm.serve.http.chat_routes import chat_completion
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.routes import WRONG, captions_of
from chiasm.serve.http.service import Service
from chiasm.serve.http.streaming import as_event

DESCRIBE = re.compile(r"^\W*(please\s+|请)?(describe|caption|write a caption|描述|说明一下|说说)", re.IGNORECASE)
"""Beginnings of messages that ask for a description; a model that answers questions in one word would not give it."""


def speaking_openai(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1", responses=WRONG, route_class=JsonRoute, tags=["OpenAI"])

    @router.post("/embeddings")
    async def embeddings(request: Request, body: schemas.EmbeddingsRequest) -> Any:
        """Unit vectors of texts and images in one space."""
        service.check_model(body.model)
        service.need("embeddings")
        width = service.model.pipeline.config.model.embedding_dim
        if body.dimensions not in (None, width):
            raise ServedError("dimensions", ["dimensions"])
        texts, images, order = _sorted(body.input)
        service.check_count(len(order))
        with service.room(len(order)) as deadline:
            vectors = await _vectors(service, request, texts, images, deadline)
        data = [
            {"object": "embedding", "index": number, "embedding": _written(vectors[kind][at], body.encoding_format)}
            for number, (kind, at) in enumerate(order)
        ]
        usage = _usage(service, texts)
        return JSONResponse({"object": "list", "data": data, "model": service.name, "usage": usage})

    @router.post("/chat/completions")
    async def chat(request: Request, body: schemas.ChatRequest) -> Any:
        """Continue a conversation, where the model was trained for it.

        Another model answers the user's last words about the last image; without words, or asked to, it describes it.
        """
        service.check_model(body.model)
        if service.can("chat"):
            return await chat_completion(service, request, body)
        image, words = asked(body.messages)
        said = await _said(service, request, image, words)
        usage = _usage(service, [words], [said.answer])
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}
        if body.stream:
            with_usage = usage if body.stream_options and body.stream_options.include_usage else None
            return StreamingResponse(_stream(head, said, with_usage), media_type="text/event-stream")
        message = {"role": "assistant", "content": said.answer, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage, "chiasm": said.as_dict()}
        return JSONResponse(whole)

    return router


def asked(messages: Sequence[schemas.Message]) -> tuple[str, str]:
    """The last image of the conversation, and the words of the user's last message.

    Raises:
        ServedError: no image.
    """
    image, words = "", ""
    for message in messages:
        if message.role != "user" or message.content is None:
            continue
        parts = message.content
        if isinstance(parts, str):
            words = parts
            continue
        words = "\n".join(part.text for part in parts if isinstance(part, schemas.TextPart))
        image = next((part.image_url.url for part in reversed(parts) if isinstance(part, schemas.ImagePart)), image)
    if not image:
        raise ServedError("no_picture", ["messages"])
    return image, words.strip()


async def _said(service: Service, request: Request, image: str, words: str) -> Prediction:
    describes = not words or bool(DESCRIBE.match(words)) or not service.can("ask")
    if describes and service.can("caption"):
        language = language_of(words) if words and language_of(words) in service.model.languages else ""
        (said,) = await captions_of(service, request, schemas.CaptionRequest(image=image, language=language))
        return said
    service.need("ask")
    if not words:
        raise ServedError("invalid_request", ["messages"])
    (said,) = await service.pairs(request, ("ask", False), [image], [words], service.model.ask)
    return said


def _stream(head: dict[str, Any], said: Prediction, usage: dict[str, int] | None) -> Iterator[str]:
    """The answer in pieces of a word, as server-sent events."""

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return as_event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    for piece in re.findall(r"\s*\S+|\s+$", said.answer):
        yield event({"content": piece})
    yield event({}, "stop")
    if usage is not None:
        yield as_event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _sorted(
    given: str | list[str | schemas.TextPart | schemas.ImagePart],
) -> tuple[list[str], list[str], list[tuple[str, int]]]:
    """Texts, images, and for each input which of both it is and where."""
    texts: list[str] = []
    images: list[str] = []
    order: list[tuple[str, int]] = []
    for number, one in enumerate([given] if isinstance(given, str) else given):
        is_image = isinstance(one, schemas.ImagePart) or (isinstance(one, str) and one[:11].lower() == "data:image/")
        value = one.image_url.url if isinstance(one, schemas.ImagePart) else one if isinstance(one, str) else one.text
        if not is_image and (not value.strip() or len(value) > schemas.LONGEST_TEXT):
            raise ServedError("invalid_request", [f"input.{number}"])
        kept, kind = (images, "image") if is_image else (texts, "text")
        order.append((kind, len(kept)))
        kept.append(value)
    return texts, images, order


async def _vectors(
    service: Service, request: Request, texts: list[str], images: list[str], deadline: float
) -> dict[str, Sequence[np.ndarray]]:
    found: dict[str, Sequence[np.ndarray]] = {}
    model = service.model
    if images:
        rows = list(await service.pictures.prepared(images, deadline))
        found["image"] = await service.compute(
            request, "embed image", rows, lambda some: list(model.encode_image(some)), deadline
        )
    if texts:
        found["text"] = await service.compute(
            request, "embed text", texts, lambda some: list(model.encode_text(some)), deadline
        )
    return found


def _written(vector: np.ndarray, encoding: str) -> list[float] | str:
    """Numbers, or the little-endian float32 bytes of them in base64."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]


def _usage(service: Service, texts: Sequence[str], said: Sequence[str] = ()) -> dict[str, int]:
    """Tokens of the words; images count as none."""
    ids = service.model.pipeline.codec.tokenizer.ids
    read, written = (sum(len(ids(text)) for text in some if text) for some in (texts, said))
    usage = {"prompt_tokens": read, "total_tokens": read + written}
    return {**usage, "completion_tokens": written} if said else usage
