"""References to images: files, bytes and arrays that are decoded on demand."""

from functools import partial
from pathlib import Path

import numpy as np

from chiasm.core.files import sha256_bytes
from chiasm.core.types import ImageRef
from chiasm.data.image import checked_pixels, load_image, read_image_bytes


def image_ref(path: Path | str, max_side_px: int | None = None) -> ImageRef:
    """Refer to an image file; it is opened only by `load()` or `content_key()`, which raise `ImageError`.

    A pipe or device is refused without waiting for it ("not_regular"), an absent file is "missing". The content key
    is the SHA-256 of the file's bytes.
    """
    return ImageRef(partial(_load_file, str(path), max_side_px), partial(_file_key, str(path)), str(path))


def image_ref_from_bytes(content: bytes, source: str = "upload", max_side_px: int | None = None) -> ImageRef:
    """Refer to an encoded image in memory, such as an upload; the content key is the SHA-256 of the bytes."""
    return ImageRef(partial(load_image, content, source, max_side_px), partial(sha256_bytes, content))


def image_ref_from_array(image: np.ndarray) -> ImageRef:
    """Refer to pixels in memory: uint8 [h, w, 3] RGB, copied. The content key covers the shape and the bytes."""
    kept = checked_pixels(image).copy()
    return ImageRef(kept.copy, partial(_array_key, kept))


def mirrored(ref: ImageRef) -> ImageRef:
    """Refer to the same image with left and right exchanged; its content key is its own."""
    return ImageRef(partial(_load_mirrored, ref), partial(_mirrored_key, ref))


def _load_file(path: str, max_side_px: int | None) -> np.ndarray:
    return load_image(read_image_bytes(path), str(path), max_side_px)


def _file_key(path: str) -> str:
    return sha256_bytes(read_image_bytes(path))


def _load_mirrored(ref: ImageRef) -> np.ndarray:
    return np.ascontiguousarray(ref.load()[:, ::-1])


def _mirrored_key(ref: ImageRef) -> str:
    return sha256_bytes(f"mirrored {ref.content_key()}".encode())


def _array_key(image: np.ndarray) -> str:
    return sha256_bytes(f"uint8 {image.shape} ".encode() + image.tobytes())
