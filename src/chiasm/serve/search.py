"""Search a folder of photos by a sentence or by a picture, with nothing to set up.

Vectors are cached by content, so the second search of a folder costs a second. Exact: every photo is compared.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from chiasm.core.errors import InputError
from chiasm.core.files import write_bytes
from chiasm.core.types import ImageRef, Source
from chiasm.data.image import ImageError, image_ref
from chiasm.data.ledger import Ledger
from chiasm.serve.engine import Model, picture_ref
from chiasm.tasks.features import FeatureCache, cache_root

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Found:
    """One photo with its cosine to the query."""

    path: str
    similarity: float


@dataclass(frozen=True, slots=True)
class PhotoFolder:
    """Encoded photos: `vectors` float32 [n, e], unit length, row i for `paths[i]`."""

    paths: list[str]
    vectors: np.ndarray
    ledger: Ledger

    def search(self, query: np.ndarray, count: int) -> list[Found]:
        """The `count` photos nearest to a unit vector [e], best first."""
        similarity = self.vectors @ query
        best = np.argsort(-similarity, kind="stable")[:count]
        return [Found(self.paths[number], float(similarity[number])) for number in best]


def photo_paths(folder: Path) -> list[Path]:
    """Every picture file below a folder, by name; hidden folders are left out, links to folders not followed.

    The path of a single file is that file, whatever its name ends in.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist", "a folder with photos, or a picture file", "check the path")
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in sorted(files) if Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(
            f"{folder} holds no picture", "files ending in " + " ".join(sorted(SUFFIXES)), "check the path"
        )
    return found


def encode_pictures(model: Model, folder: Path, progress: Callable[[int, int], None]) -> PhotoFolder:
    """Encode every photo below a folder; unreadable ones are entered in the ledger and left out.

    What a frozen tower says of a photo is shared with training and evaluation: a folder that a model was trained on
    is searched at once, and so is one that another model on the same tower has seen.
    """
    pipeline = model.pipeline
    is_frozen = pipeline.config.model.image.frozen
    fingerprint = pipeline.image_fingerprint() if is_frozen else f"search-{pipeline.embedding_fingerprint()}"
    store = FeatureCache(cache_root(), fingerprint)
    ledger = Ledger()
    keyed: list[tuple[str, ImageRef, str]] = []
    for photo in photo_paths(folder):
        ledger.offer()
        try:
            ref = image_ref(photo)
            keyed.append((str(photo), ref, ref.content_key()))
        except ImageError as error:
            ledger.reject(Source(str(photo)), error.code, error.given)
    missing = list({key: (path, ref) for path, ref, key in keyed if key not in store.vectors}.items())
    broken: dict[str, ImageError] = {}
    for start in range(0, len(missing), CHUNK):
        keys, images = _decoded(missing[start : start + CHUNK], broken)
        if keys:
            refs = [picture_ref(image) for image in images]
            store.add(keys, model.tower_vectors(refs) if is_frozen else model.embed_refs(refs))
        progress(min(start + CHUNK, len(missing)), len(missing))
    kept = []
    for path, _, key in keyed:
        if key in broken:
            ledger.reject(Source(path), broken[key].code, broken[key].given)
        else:
            ledger.use()
            kept.append((path, store.vectors[key]))
    if not kept:
        first = "; ".join(f"{entry.file}: {entry.code}" for entry in ledger.entries[:3])
        raise InputError(
            f"no picture in {folder} can be read; {ledger.summary()}; the first: {first}",
            "readable pictures",
            "look at the files",
        )
    vectors = np.stack([vector for _, vector in kept])
    return PhotoFolder([path for path, _ in kept], model.project(vectors) if is_frozen else vectors, ledger)


def _decoded(
    part: Sequence[tuple[str, tuple[str, ImageRef]]], broken: dict[str, ImageError]
) -> tuple[list[str], list[np.ndarray]]:
    keys, images = [], []
    for key, (_, ref) in part:
        try:
            images.append(ref.load())
            keys.append(key)
        except ImageError as error:
            broken[key] = error
    return keys, images


def write_vectors(path: Path, photos: PhotoFolder) -> None:
    """Write `vectors` float32 [n, e] as safetensors, with the photos' paths as a JSON list in its metadata."""
    metadata = {"paths": json.dumps(photos.paths, ensure_ascii=False)}
    write_bytes(path, save({"vectors": photos.vectors}, metadata=metadata))


def query_vector(model: Model, query: str) -> np.ndarray:
    """A sentence, or the path of a picture, -> unit vector [e]."""
    if Path(query).suffix.lower() in SUFFIXES and Path(query).is_file():
        return model.embed_refs([picture_ref(query)])[0]
    return model.encode_text([query])[0]
