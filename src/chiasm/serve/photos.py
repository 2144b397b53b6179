"""Image files -> unit vectors: the one way in which a folder is encoded, for `search`, `embed` and the index.

A file is read once, so that what is hashed is what is encoded. Reading and decoding run in threads, one part ahead of
the model. What a frozen tower says of an image is shared with training and evaluation through their cache.
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
from chiasm.core.files import sha256_bytes
from chiasm.core.types import IMAGE
from chiasm.data.image import SUFFIXES, ImageError, load_image, read_image_bytes
from chiasm.pipeline.feature_cache import FeatureCache, cache_root, decode_images
from chiasm.serve.engine import Model
from chiasm.tasks.retrieval import Retrieval

AT_ONCE = 64
"""Images encoded, and by the index written, at once."""
RACY_NS = 2_000_000_000
"""A file that was changed this shortly before it was read may change again within the same tick of the clock."""
Vector = npt.NDArray[np.float32]
Known = Callable[[Sequence[str]], Mapping[str, Vector]]
"""Content hashes -> the vectors of those that are known already."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One file after it was read.

    Attributes:
        path: as it was given.
        content: SHA-256 of the bytes, "" where they could not be read.
        size_bytes: how many they were.
        state: what `file_state` said of the file before it was read; "" where it was too new to be sure of.
        vector: float32 [e], unit length; None where there is a problem.
        problem: why the image cannot be used.
    """

    path: str
    content: str = ""
    size_bytes: int = 0
    state: str = ""
    vector: Vector | None = None
    problem: ImageError | None = None


def photo_paths(folder: Path) -> list[Path]:
    """Every image file below a folder, by name; hidden folders are left out, links to folders not followed.

    The path of a single file is that file, whatever its name ends in.
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
    """Whether words that a person typed are the path of an image rather than something to look for."""
    try:
        return Path(words).suffix.lower() in SUFFIXES and Path(words).is_file()
    except (OSError, ValueError):  # words can be longer than a path may be
        return False


def file_state(path: str) -> str:
    """What changes whenever a file's content does: its size, times and inode; "" where there is no such file.

    The time of the last status change is among them: nothing sets it back, as `cp -p` does the time of modification.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


class Encoder:
    """Encodes files with one model.

    Args:
        model: was trained for retrieval.
        keeps: enter new vectors in the cache on disk. An index keeps its own, so it only reads what training and
            evaluation have left there.
    """

    def __init__(self, model: Model, keeps: bool = False) -> None:
        self.model, self.keeps = model, keeps
        pipeline = model.pipeline
        self.task: Retrieval = pipeline.task(Retrieval)
        self.is_frozen = pipeline.config.model.image.frozen
        fingerprint = pipeline.image_fingerprint() if self.is_frozen else f"search-{pipeline.embedding_fingerprint()}"
        self.cache = FeatureCache(cache_root(), fingerprint)

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
