"""/v1/chat/completions of a model that was trained for conversation: history, images, streaming, log-probabilities."""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from chiasm.core.errors import InputError
from chiasm.data.image import ImageError
from chiasm.serve.batcher import DeadlinePassedError
from chiasm.serve.http import schemas
from chiasm.serve.http.chat_loop import Listener
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.service import Service
from chiasm.serve.http.streaming import EventStream, as_event, failure, while_connected
from chiasm.serve.messages import MessagesError, spoken
from chiasm.serve.talker import Talker
from chiasm.tasks.conversation_decoding import PromptSize, Sampling, TooLongError, Written

DEFAULT_TOKENS = 256
"""Longest reply where a request says nothing."""


async def chat_completion(service: Service, request: Request, body: schemas.ChatRequest) -> Any:
    """Reply to a conversation, whole or as server-sent events.

    Raises:
        ServedError: see `errors.CODES`; once a stream has begun, errors are events of it.
    """
    _check(service, body)
    async with AsyncExitStack() as stack:
        deadline = stack.enter_context(service.room(1))
        began = time.monotonic()
        messages = await _messages(service, body, deadline)
        listener = service.conversations.join(messages, sampling_of(service, body), deadline)
        stack.callback(service.conversations.leave, listener)
        stack.callback(lambda: service.batcher.tell(time.monotonic() - began))
        chat = _Chat(service, body, listener)
        size = await _while_connected(request, chat.first())
        if body.stream:
            return EventStream(chat.events(size), stack.pop_all().aclose)
        return JSONResponse(await _while_connected(request, chat.whole(size)))


def sampling_of(service: Service, body: schemas.ChatRequest) -> Sampling:
    """How a request wants its reply written; without a seed it is drawn anew."""
    most = body.max_completion_tokens or body.max_tokens or DEFAULT_TOKENS
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        max_tokens=min(most, service.settings.max_new_tokens),
        temperature=body.temperature or 0.0,
        top_p=body.top_p or 1.0,
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        stop=stop,
        logprobs=(body.top_logprobs or 0) if body.logprobs else 0,
    )


def _check(service: Service, body: schemas.ChatRequest) -> None:
    """Refuse what is too much, and messages that are no conversation, before anything is decoded."""
    images = sum(
        isinstance(part, schemas.ImagePart)
        for message in body.messages
        if isinstance(message.content, list)
        for part in message.content
    )
    settings = service.settings
    if len(body.messages) > settings.max_messages or images > settings.max_chat_images:
        raise ServedError("too_many_items", ["messages"])
    try:
        spoken([_plain(one, lambda url: url) for one in body.messages])
    except MessagesError:
        raise ServedError("messages", ["messages"]) from None


async def _messages(service: Service, body: schemas.ChatRequest, deadline: float) -> list[dict[str, Any]]:
    """The messages with decoded images."""
    urls = [
        part.image_url.url
        for message in body.messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, schemas.ImagePart)
    ]
    by_url = dict(zip(urls, await service.pictures.prepared(urls, deadline), strict=True))
    return [_plain(one, by_url.__getitem__) for one in body.messages]


def _plain(message: schemas.Message, image: Callable[[str], Any]) -> dict[str, Any]:
    """A message as `messages.spoken` reads it."""
    parts = message.content
    if isinstance(parts, list):
        content: Any = [
            {"type": "text", "text": part.text}
            if isinstance(part, schemas.TextPart)
            else {"type": "image", "image": image(part.image_url.url)}
            for part in parts
        ]
    else:
        content = parts
    return {"role": message.role, "content": content}


async def _while_connected(request: Request, work: Any) -> Any:
    """Await something, unless the client leaves before.

    Raises:
        ServedError: as `_told`; "deadline" where the client is gone, which nobody reads.
    """
    try:
        return await while_connected(request, work)
    except Exception as error:
        raise _told(error) from error


def _told(error: Exception) -> Exception:
    """The answer to an error; what is unexpected stays as it is."""
    if isinstance(error, DeadlinePassedError):
        return ServedError("deadline")
    if isinstance(error, TooLongError):
        return ServedError("context_length_exceeded", ["messages"])
    if isinstance(error, ImageError):
        return ServedError(f"image_{error.code}", ["messages"])
    return ServedError("messages", ["messages"]) if isinstance(error, InputError) else error


class _Chat:
    """One reply in OpenAI's shape."""

    def __init__(self, service: Service, body: schemas.ChatRequest, listener: Listener) -> None:
        self.listener, self.has_logprobs = listener, bool(body.logprobs)
        self.with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.talker: Talker = service.model.talker
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}

    async def first(self) -> PromptSize:
        """Wait for the place in the batch, so that what is wrong with the messages is an answer of its own."""
        size = await self.listener.next()
        assert isinstance(size, PromptSize), "a conversation begins with the size of its prompt"
        return size

    async def whole(self, size: PromptSize) -> dict[str, Any]:
        written: list[Written] = []
        while not written or not written[-1].finish:
            one = await self.listener.next()
            assert isinstance(one, Written), "then come tokens"
            written.append(one)
        said = self.talker.reply(written)
        shown = [self._logprob(one) for one in written if self._is_text(one)]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said.answer, "refusal": None},
            "finish_reason": written[-1].finish,
            "logprobs": {"content": shown, "refusal": None} if self.has_logprobs else None,
        }
        about = {"confidence": said.confidence, "word_probability": said.evidence["word_probability"]}
        usage = _usage(size, len(written))
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": usage, "chiasm": about}

    async def events(self, size: PromptSize) -> AsyncIterator[str]:
        yield self._chunk({"role": "assistant", "content": ""})
        count, finish = 0, ""
        try:
            while not finish:
                one = await self.listener.next()
                assert isinstance(one, Written), "then come tokens"
                count, finish = count + 1, one.finish
                is_shown = self.has_logprobs and self._is_text(one)
                if one.text or is_shown:
                    yield self._chunk({"content": one.text}, logprobs=[self._logprob(one)] if is_shown else None)
        except Exception as error:
            yield failure(_told(error))
            return
        yield self._chunk({}, finish)
        if self.with_usage:
            whole = {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(size, count)}
            yield as_event(whole)
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], finish: str = "", logprobs: list[dict[str, Any]] | None = None) -> str:
        told = None if logprobs is None else {"content": logprobs, "refusal": None}
        choice = {"index": 0, "delta": delta, "finish_reason": finish or None, "logprobs": told}
        return as_event({**self.head, "object": "chat.completion.chunk", "choices": [choice]})

    def _is_text(self, one: Written) -> bool:
        """Whether a token is one of the reply's text."""
        return one.id not in self.talker.tokenizer.end_ids and not one.is_cut

    def _logprob(self, one: Written) -> dict[str, Any]:
        top = [self._named(number, value) for number, value in one.top]
        return {**self._named(one.id, one.log_probability), "top_logprobs": top}

    def _named(self, number: int, value: float) -> dict[str, Any]:
        text = self.talker.piece(number)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _usage(size: PromptSize, written: int) -> dict[str, Any]:
    """Tokens read, those of images included, and written, the end token included."""
    return {
        "prompt_tokens": size.positions,
        "completion_tokens": written,
        "total_tokens": size.positions + written,
        "prompt_tokens_details": {"cached_tokens": size.reused},
    }
