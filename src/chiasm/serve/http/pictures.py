"""Pictures as clients send them: data URIs, bare base64, or addresses of hosts that are allowed."""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from chiasm.data.image import MAX_BYTES, ImageError
from chiasm.serve.engine import Model
from chiasm.serve.http.decoders import Decoders, TooSlowError
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.fetching import fetch
from chiasm.serve.http.settings import ServerSettings

T = TypeVar("T")


def picture_bytes(text: str) -> bytes:
    """The bytes of a picture file that was sent as a data URI or in bare base64.

    Raises:
        ServedError: no base64, or too large.
    """
    if text[:64].lower().startswith("data:"):
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().startswith("data:image/") or not kind.lower().endswith(";base64"):
            raise ServedError("not_base64")
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise ServedError("image_too_many_bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ServedError("not_base64") from None


class Pictures:
    """Decodes beside the model thread, so that it never waits for a JPEG.

    Args:
        model: whose pictures they become.
        settings: limits.
        threads: decoders.
    """

    def __init__(self, model: Model, settings: ServerSettings, threads: int = 2) -> None:
        self.model, self.settings = model, settings
        self.decoders = Decoders(threads)

    async def prepared(self, texts: list[str], end: float) -> list[Tensor]:
        """Pictures as the model takes them; equal ones are decoded once.

        Args:
            texts: as clients send them.
            end: the request's deadline, on the clock of `time.monotonic`.

        Raises:
            ServedError: with a code of `REASONS` after "image_", "image_too_slow", or "deadline".
        """
        distinct = list(dict.fromkeys(texts))
        ready = await asyncio.gather(*(self._prepared(one, end) for one in distinct))
        by_text = dict(zip(distinct, ready, strict=True))
        return [by_text[text] for text in texts]

    async def in_thread(self, work: Callable[..., T], *given: object, end: float | None = None) -> T:
        """What the work on a picture returns, within the time that one may take.

        Raises:
            ServedError: "image_too_slow", or "deadline" where no decoder is free.
        """
        end = time.monotonic() + self.settings.timeout_s if end is None else end
        try:
            return await self.decoders.run(work, *given, limit_s=self.settings.decode_s, end=end)
        except TooSlowError:
            raise ServedError("image_too_slow") from None
        except TimeoutError:
            raise ServedError("deadline") from None

    def close(self) -> None:
        """End the decoders."""
        self.decoders.close()

    async def _prepared(self, text: str, end: float) -> Tensor:
        if "://" in text[:64]:
            # Waiting for another host is no decoding: it has its own limit, and threads that may all be waiting.
            loop, domains = asyncio.get_running_loop(), self.settings.allow_domains
            content = await loop.run_in_executor(None, fetch, text, domains, self.settings.timeout_s / 2)
            return await self.in_thread(self._decode, content, end=end)
        return await self.in_thread(self._prepare, text, end=end)

    def _prepare(self, text: str) -> Tensor:
        return self._decode(picture_bytes(text))

    def _decode(self, content: bytes) -> Tensor:
        try:
            return self.model.prepare(content)
        except ImageError as error:
            raise ServedError(f"image_{error.code}") from None
