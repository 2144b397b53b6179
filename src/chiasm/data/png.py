"""Pixels as PNG files."""

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def as_png(pixels: npt.NDArray[np.uint8], said: Mapping[str, str] | None = None) -> bytes:
    """Pixels uint8 [h, w, 3 or 4] as a PNG file, with text chunks."""
    chunks = PngInfo()
    for key, text in (said or {}).items():
        chunks.add_text(key, text)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", pnginfo=chunks)
    return written.getvalue()
