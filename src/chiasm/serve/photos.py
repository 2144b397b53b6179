"""Image files -> unit vectors, for `search`, `embed` and the index.

Each file is read once, so the hashed bytes are the encoded bytes. Reading and decoding run in threads, one part ahead
of the model. Features of a frozen tower share the cache of training and evaluation.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.files import cache_root, sha256_bytes
from chiasm.core.types import IMAGE
from chiasm.data.image import SUFFIXES, ImageError, load_image, read_image_bytes
from chiasm.pipeline.feature_cache import FeatureCache, decode_images
from chiasm.serve.engine import Model
from chiasm.tasks.retrieval import Retrieval

AT_ONCE = 64
"""Images per batch, and per transaction of the index."""
RACY_NS = 2_000_000_000
"""A file modified less than this before it was read may change again within the same clock tick."""
Vector = npt.NDArray[np.float32]
Known = Callable[[Sequence[str]], Mapping[str, Vector]]
"""Content hashes -> vectors of those already encoded."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded file.

    Attributes:
        path: path as given.
        content: SHA-256 of the bytes; "" if the file could not be read.
        size_bytes: size of the file.
        state: `file_state` before reading; "" if the file was modified too recently (`RACY_NS`).
        vector: float32 [e], unit length; None if there is a problem.
        problem: why the image cannot be used.
    """

    path: str
    content: str = ""
    size_bytes: int = 0
    state: str = ""
    vector: Vector | None = None
    problem: ImageError | None = None


def photo_paths(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by name; skips hidden folders and does not follow links to folders.

    The path of a file returns that file, whatever its suffix.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", "a folder with photos, or an image file", "check the path")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in sorted(files) if Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{folder} holds no image", "files ending in " + " ".join(sorted(SUFFIXES)), "check the path")
    return found


def is_image_file(words: str) -> bool:
    """Whether a query is the path of an image file rather than text."""
    try:
        return Path(words).suffix.lower() in SUFFIXES and Path(words).is_file()
    except (OSError, ValueError):  # a query can be longer than a path may be
        return False


def file_state(path: str) -> str:
    """Size, times and inode of a file, which change with its content; "" if there is no such file.

    It contains the time of the last status change, which `cp -p` does not preserve.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


class Encoder:
    """Encodes files with one model.

    Args:
        model: a model with the task retrieval.
        keeps: whether to write new vectors to the cache on disk. An index stores its own vectors and only reads the
            cache.
    """

    def __init__(self, model: Model, keeps: bool = False) -> None:
        self.model, self.keeps = model, keeps
        pipeline = model.pipeline
        self.task: Retrieval = pipeline.task(Retrieval)
        self.is_frozen = pipeline.config.model.image.frozen
        formats = "".join(f"-{form}" for form in pipeline.execution.of_embeddings.values())
        embedding = f"search-{pipeline.embedding_fingerprint()}{formats}"
        self.cache = FeatureCache(cache_root(), pipeline.image_fingerprint() if self.is_frozen else embedding)

    def encode(self, paths: Sequence[str], known: Known | None = None) -> Iterator[list[Encoded]]:
        """Encode files in parts of `AT_ONCE`, in their order; an image that cannot be used has a `problem`."""
        parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            ahead: list[Future[tuple[Encoded, bytes]]] = []
            for number in range(len(parts) + 1):
                reading = ahead
                ahead = [pool.submit(_read, path) for path in parts[number]] if number < len(parts) else []
                if number:
                    yield self._encode_part([one.result() for one in reading], known, pool)

    def _encode_part(
        self, files: Sequence[tuple[Encoded, bytes]], known: Known | None, pool: ThreadPoolExecutor
    ) -> list[Encoded]:
        bytes_of = {one.content: (content, one.path) for one, content in files if one.problem is None}
        vectors = dict(known(list(bytes_of))) if known is not None else {}
        cached = [key for key in bytes_of if key not in vectors and key in self.cache.vectors]
        if cached:
            stored = np.stack([self.cache.vectors[key] for key in cached])
            vectors.update(zip(cached, self.model.project(stored) if self.is_frozen else stored, strict=True))
        missing = [key for key in bytes_of if key not in vectors]
        loads = {key: partial(load_image, *bytes_of[key]) for key in missing}
        pixels, problems = decode_images(loads, self.model.pipeline.resizing, pool.map)
        if pixels:
            vectors.update(zip(pixels, self._vectors(list(pixels), torch.cat(list(pixels.values()))), strict=True))
        return [
            replace(one, problem=ImageError(problems[one.content].code, one.path))
            if one.content in problems
            else replace(one, vector=vectors.get(one.content))
            for one, _ in files
        ]

    def _vectors(self, keys: Sequence[str], pixels: Tensor) -> Vector:
        pipeline = self.model.pipeline
        tokens = pipeline.encode_pixels(pixels)
        vectors = self.task.embed_images(pipeline.model, {IMAGE: tokens})
        if self.keeps:
            self.cache.add(keys, tokens.pooled.float().cpu().numpy() if self.is_frozen else vectors)
        return vectors


def _read(path: str) -> tuple[Encoded, bytes]:
    state = file_state(path)
    try:
        content = read_image_bytes(path)
    except ImageError as error:
        return Encoded(path, state=state, problem=error), b""
    is_racy = bool(state) and int(state.split("-")[2]) > time.time_ns() - RACY_NS
    return Encoded(path, sha256_bytes(content), len(content), "" if is_racy else state), content
