"""Decoding of images from data URIs, bare base64, or URLs of allowed hosts."""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiasm.data.image import MAX_BYTES, REASONS
from chiasm.serve.engine import Model
from chiasm.serve.http.decoders import Decoded, Decoders, TooHeavyError, TooSlowError
from chiasm.serve.http.errors import ServedError
from chiasm.serve.http.fetching import fetch
from chiasm.serve.http.settings import ServerSettings

FETCHES = 2
"""Largest number of images fetched concurrently; each counts until it is decoded."""


def image_bytes(text: str) -> bytes:
    """The bytes of an image file from a data URI or bare base64.

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


class ImageDecoding:
    """Decodes images in child processes, so that decoding neither blocks the model thread nor exhausts its memory.

    Args:
        model: whose images they become.
        settings: limits.
        children: decoders.
    """

    def __init__(self, model: Model, settings: ServerSettings, children: int = 2) -> None:
        self.model, self.settings = model, settings
        self.decoders = Decoders(children, settings.max_pixels)
        self._fetches = asyncio.Semaphore(FETCHES)

    async def prepared(self, texts: list[str], end: float) -> list[Tensor]:
        """Decode and resize images; equal ones are decoded once.

        Args:
            texts: as clients send them.
            end: the request's deadline, on the clock of `time.monotonic`.

        Raises:
            ServedError: with a code of `REASONS` after "image_", "image_too_slow", "image_too_heavy", or "deadline".
        """
        distinct = list(dict.fromkeys(texts))
        ready = await asyncio.gather(*(self._prepared(one, end) for one in distinct))
        by_text = dict(zip(distinct, ready, strict=True))
        return [by_text[text] for text in texts]

    async def thumbnail(self, read: Callable[[], bytes], side_px: int) -> bytes:
        """A JPEG whose longer side is at most `side_px`.

        Args:
            read: gives the bytes of the image, in a thread; what it raises is raised here.
            side_px: of the JPEG.

        Raises:
            ServedError: as `prepared`.
        """
        end = time.monotonic() + self.settings.timeout_s
        return bytes((await self._decoded({"thumbnail_px": side_px}, read, end)).content)

    def close(self) -> None:
        """End the decoders."""
        self.decoders.close()

    async def _prepared(self, text: str, end: float) -> Tensor:
        if "://" not in text[:64]:
            return await self._pixels(partial(image_bytes, text), end)
        # Waiting for another host is no decoding: it has its own limit. What was fetched is kept until it is decoded.
        async with self._fetches:
            loop, domains = asyncio.get_running_loop(), self.settings.allow_domains
            content = await loop.run_in_executor(
                None, fetch, text, domains, self.settings.timeout_s / 2, self.settings.max_body_bytes
            )
            return await self._pixels(lambda: content, end)

    async def _pixels(self, read: Callable[[], bytes], end: float) -> Tensor:
        found = await self._decoded({"resizing": asdict(self.model.resizing)}, read, end)
        shape = found.head.get("shape")
        return torch.from_numpy(np.frombuffer(found.content, np.uint8).reshape(shape)).permute(2, 0, 1)

    async def _decoded(self, order: dict[str, Any], read: Callable[[], bytes], end: float) -> Decoded:
        try:
            found = await self.decoders.run(order, read, self.settings.decode_s, end)
        except TooSlowError:
            raise ServedError("image_too_slow") from None
        except TooHeavyError:
            raise ServedError("image_too_heavy") from None
        except TimeoutError:
            raise ServedError("deadline") from None
        code = found.head.get("error")
        if code is not None:
            raise ServedError(f"image_{code if code in REASONS else 'corrupt'}")
        return found
