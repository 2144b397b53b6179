"""Pictures as clients send them: data URIs, bare base64, or addresses of hosts that are allowed."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from torch import Tensor

from chiasm.data.image import MAX_BYTES, ImageError
from chiasm.serve.engine import Model
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.fetching import fetch
from chiasm.serve.http.settings import ServerSettings

T = TypeVar("T")


def picture_bytes(text: str, settings: ServerSettings) -> bytes:
    """The bytes of a picture file.

    Raises:
        ServedError: no base64, an address that is not allowed, or too large.
    """
    head = text[:64].lower()
    if "://" in head:
        return fetch(text, settings.allow_domains, settings.timeout_s / 2)
    if head.startswith("data:"):
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
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def content(self, text: str) -> bytes:
        """The bytes of a picture file that a client sent."""
        return await self._run(picture_bytes, text, self.settings)

    async def prepared(self, texts: list[str]) -> list[Tensor]:
        """Pictures as the model takes them; equal ones are decoded once.

        Raises:
            ServedError: with a code of `REASONS` after "image_".
        """
        distinct = list(dict.fromkeys(texts))
        ready = await asyncio.gather(*(self._run(self._prepare, one) for one in distinct))
        by_text = dict(zip(distinct, ready, strict=True))
        return [by_text[text] for text in texts]

    def close(self) -> None:
        """End the decoders."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, text: str) -> Tensor:
        try:
            return self.model.prepare(picture_bytes(text, self.settings))
        except ImageError as error:
            raise ServedError(f"image_{error.code}") from None

    async def _run(self, work: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *given))
