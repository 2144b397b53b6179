"""Preparation of a split: every image is decoded once, and frozen towers encode each input once.

The cache stores the output of a frozen tower for an image or text under the hash of its content.

A cache folder holds one subfolder per tower and preprocessing; in it, immutable chunk files. A chunk is written
whole or not at all, so an interrupted pass loses at most one chunk and a second pass continues after it. An opening
reads the keys of every chunk, and compares the hash of those that are new or have changed since. A chunk is a
safetensors file named after its own hash, with the content keys in its metadata, the vectors float32 [n, d] as
`values` and, where the run keeps them, the grids of tokens float16 [n, l, c] as `grid`.

Axis legend: n images or texts, d numbers of a pooled vector, l tokens of the grid, c numbers a token.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from chiasm.core.files import sha256_bytes, sha256_file, write_bytes, write_json
from chiasm.core.log import Progress
from chiasm.core.resizing import Resizing
from chiasm.core.types import Example, ImageRef, Tokens
from chiasm.data.dataset import Dataset, FirstEpoch, PlainDataset, examples_of
from chiasm.data.files import LABEL_GROUP
from chiasm.data.groups import joined_groups
from chiasm.data.image import ImageError
from chiasm.data.modalities.image import image_files_of, images_of
from chiasm.pipeline.batching import DECODERS, FEATURES, Features, ahead, in_threads, stack_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.text_batches import ordered

WHOLE = "whole.json"
"""File of a cache: chunk -> its state when its hash was last compared. An unchanged chunk is not read again."""
CHUNK = 512
"""Images or texts in a file of the cache."""
ROW_BITS = 32
"""Bits of the row in a place of `MappedRows`; those above are the number of its array."""
DECODED_AT_ONCE = 64
"""Decoded images in memory: a driver's wide views of a whole chunk would be most of a gigabyte."""
Load = Callable[[], np.ndarray]
EachLoad = Callable[[Callable[[Load], Tensor | ImageError], Sequence[Load]], Iterable[Tensor | ImageError]]


class MappedRows(Mapping[str, np.ndarray]):
    """Key -> row of an array; the arrays are mapped from files, so that only keys and places take memory."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._places: dict[str, int] = {}

    def enter(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Add the rows of one array, as many as keys; later rows replace earlier ones of the same key."""
        start = len(self._arrays) << ROW_BITS
        self._arrays.append(rows)
        self._places.update((key, start + row) for key, row in zip(keys, range(len(rows)), strict=True))

    def __getitem__(self, key: str) -> np.ndarray:
        place = self._places[key]
        return self._arrays[place >> ROW_BITS][place & (2**ROW_BITS - 1)]  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _state(path: Path) -> list[int]:
    """What changes when a file's content does, unless a disk loses it: size, time of the last change, inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


class FeatureCache:
    """Content key (hexadecimal SHA-256) -> vector and perhaps grid, on disk.

    Args:
        folder: where chunks live.
        fingerprint: names the tower, its weights and its preprocessing; another fingerprint has a folder of its own.

    Attributes:
        vectors: key -> float32 [d], memory-mapped from its file. Only the keys and their positions are held in
            memory.
        grids: key -> float16 [l, c], mapped too. The keys are those that were added with a grid, and all of them are in
            `vectors`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint
        self.vectors, self.grids = MappedRows(), MappedRows()
        known, whole = self._found_whole(), dict[str, list[int]]()
        for path in sorted(self.folder.glob("*.safetensors")):
            state = _state(path)
            if known.get(path.name) != state and sha256_file(path)[:16] != path.stem:
                path.unlink(missing_ok=True)  # a damaged chunk: its items are encoded again
                continue
            whole[path.name] = state
            self._read(path)
        if whole != known:
            with suppress(OSError):  # of a folder that may only be read
                write_json(self.folder / WHOLE, whole)

    def _found_whole(self) -> dict[str, list[int]]:
        """The files that an earlier opening found whole, with their state then; {} where that cannot be read."""
        try:
            known = json.loads((self.folder / WHOLE).read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def add(self, keys: Sequence[str], vectors: np.ndarray, grids: np.ndarray | None = None) -> None:
        """Store vectors float32 [n, d], and grids float16 [n, l, c] if there are any, under their keys, durably."""
        tensors = {"values": vectors} if grids is None else {"values": vectors, "grid": grids}
        assert all(len(rows) == len(keys) for rows in tensors.values()), "one row a key"
        content = save(
            {name: torch.from_numpy(np.ascontiguousarray(rows)) for name, rows in tensors.items()},
            metadata={"keys": " ".join(keys)},
        )
        path = self.folder / f"{sha256_bytes(content)[:16]}.safetensors"
        write_bytes(path, content)
        self._read(path)

    def _read(self, path: Path) -> None:
        # As PyTorch tensors safetensors maps a file; as NumPy arrays it would copy it.
        with safetensors.safe_open(path, framework="pt") as file:
            keys = file.metadata()["keys"].split()
            self.vectors.enter(keys, file.get_tensor("values").numpy())
            if "grid" in file.keys():  # noqa: SIM118 - the file is no dict
                self.grids.enter(keys, file.get_tensor("grid").numpy())


class PreparedDataset(PlainDataset):
    """Examples whose images can be read, each with its features where they are cached; the same in every epoch.

    Args:
        dataset: the set that was checked or encoded; its ledger is this one's.
        indices: int64 [n], the places in it of the readable examples.
        keys: of n examples, the content keys of their images. Examples with an image in common become one group, so
            that they are never each other's false negatives; images of one class stay in the group of their class, and
            texts alone in their own.
        features: content key -> features under `image_features`; None if images are decoded.
    """

    is_generated = False

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        keys: Sequence[tuple[str, ...]],
        features: Callable[[str], Features] | None = None,
    ) -> None:
        assert len(indices) == len(keys), "the keys of each example"
        self.dataset, self.indices, self.keys, self.features = dataset, indices, keys, features
        self.groups = _groups(dataset, indices, keys)
        self.split, self.ledger = dataset.split, dataset.ledger

    def __len__(self) -> int:
        return len(self.keys)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example `index` of the first epoch."""
        example = self.dataset.example(int(self.indices[index]))
        group = example.group if example.group.startswith(LABEL_GROUP) else self.groups[index]
        inputs = dict(example.inputs)
        if self.features is not None:
            found = tuple(map(self.features, self.keys[index]))
            inputs[FEATURES] = found[0] if len(found) == 1 else found
        return replace(example, inputs=inputs, group=group)


def _groups(dataset: Dataset, indices: np.ndarray, keys: Sequence[tuple[str, ...]]) -> list[str]:
    """The group of each example by its images' content; of a text alone its own."""
    if all(len(some) == 1 for some in keys):
        return [key for (key,) in keys]

    def own(index: int) -> tuple[str, ...]:
        example = dataset.example(index)
        return (f"text {example.group or example.id}",)

    members = [some or own(int(index)) for some, index in zip(keys, indices, strict=True)]
    return joined_groups([""] * len(members), members)


def check_images(dataset: Dataset, progress: Progress) -> PreparedDataset:
    """Decode every image once before training, so that a broken image does not stop an epoch.

    An example with an unreadable image goes to the ledger.
    """

    def keys_of(index: int) -> tuple[str, ...] | ImageError:
        example = dataset.example(index)
        try:
            for image in image_files_of(example):
                image.load()
            return tuple(image.content_key() for image in images_of(example))
        except ImageError as error:
            return error

    count, indices, keys = len(dataset), list[int](), list[tuple[str, ...]]()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for index, found in enumerate(pool.map(keys_of, range(count))):
            if isinstance(found, ImageError):
                dataset.ledger.withdraw(dataset.example(index).source, found.code, found.given)
            else:
                indices.append(index)
                keys.append(found)
            if (index + 1) % CHUNK == 0 or index + 1 == count:
                progress(index + 1, count, "checking images")
    return PreparedDataset(dataset, np.array(indices, dtype=np.int64), keys)


def encode_images(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> PreparedDataset:
    """Give every example the `Features` of its images under `image_features`.

    An example with an unreadable image goes to the ledger.

    Only one chunk of tokens, and fewer images, are in memory at a time; afterwards only the keys are.
    """
    store = FeatureCache(cache, pipeline.image_fingerprint())
    has_grid = pipeline.config.model.image.grid
    known = store.grids if has_grid else store.vectors
    keyed: list[tuple[tuple[str, ...], int]] = []
    for index, example in enumerate(examples_of(dataset)):
        try:
            images, every = images_of(example), image_files_of(example)
            for image in every[len(images) :]:  # of further inputs, which no cache holds
                image.load()
            keyed.append((tuple(image.content_key() for image in images), index))
        except ImageError as error:
            dataset.ledger.withdraw(example.source, error.code, error.given)
    places = {key: (index, place) for keys, index in keyed for place, key in enumerate(keys) if key not in known}
    missing = list(places.items())
    unreadable: dict[str, ImageError] = {}
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        part = [(key, images_of(dataset.example(index))[place]) for key, (index, place) in chunk]
        unreadable |= _encode_chunk(pipeline, part, store)
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding images once")
    kept = list[tuple[tuple[str, ...], int]]()
    for keys, index in keyed:
        if broken := next((unreadable[key] for key in keys if key in unreadable), None):
            dataset.ledger.withdraw(dataset.example(index).source, broken.code, broken.given)
        else:
            kept.append((keys, index))

    def features(key: str) -> Features:
        return Features(store.vectors[key], store.grids[key] if has_grid else None)

    indices = np.array([index for _, index in kept], dtype=np.int64)
    return PreparedDataset(dataset, indices, [keys for keys, _ in kept], features)


def _encode_chunk(
    pipeline: Pipeline, part: Sequence[tuple[str, ImageRef]], store: FeatureCache
) -> dict[str, ImageError]:
    """Encode the images of one chunk into the store, and return why some of them cannot be read."""
    tower = pipeline.config.model.image
    each = partial(in_threads, workers=pipeline.config.data.workers or DECODERS)
    unreadable: dict[str, ImageError] = {}
    keys: list[str] = []
    vectors, grids = [], []

    def decoded(start: int) -> tuple[dict[str, Tensor], dict[str, ImageError]]:
        some = part[start : start + DECODED_AT_ONCE]
        return decode_images({key: image.load for key, image in some}, pipeline.resizing, each)

    for pixels, problems in ahead(decoded, range(0, len(part), DECODED_AT_ONCE)):
        unreadable |= problems
        if pixels:
            tokens = pipeline.encode_pixels(torch.cat(list(pixels.values())))
            keys += pixels
            vectors.append(tokens.pooled.cpu().numpy())
            if tower.grid:
                grids.append(_grids(tokens))
    if keys:
        store.add(keys, np.concatenate(vectors), np.concatenate(grids) if tower.grid else None)
    return unreadable


def decode_images(
    loads: Mapping[str, Load], resizing: Resizing, each: EachLoad
) -> tuple[dict[str, Tensor], dict[str, ImageError]]:
    """Decode images and resize them at once, since whole photos would fill the memory.

    Args:
        loads: key -> what returns uint8 [h, w, 3] or raises `ImageError`.
        resizing: of the pipeline.
        each: calls a function on each item, in their order, as `map` does; may use threads.

    Returns:
        Key -> uint8 [1, 3, size_px, width_px] of the readable ones, and key -> error of the others, in their order.
    """

    def decoded(load: Load) -> Tensor | ImageError:
        try:
            return stack_images([load()], resizing)
        except ImageError as error:
            return error

    found = dict(zip(loads, each(decoded, list(loads.values())), strict=True))
    pixels = {key: result for key, result in found.items() if isinstance(result, Tensor)}
    return pixels, {key: result for key, result in found.items() if isinstance(result, ImageError)}


def _grids(tokens: Tokens) -> np.ndarray:
    """The tokens as float16 [n, l, c]: half the space, and still finer than bf16, in which training may read them."""
    assert bool(tokens.is_real.all()), "images of one size have no padded tokens"
    grids: np.ndarray = tokens.values.half().cpu().numpy()
    assert np.isfinite(grids).all(), "the tower's tokens do not fit float16"
    return grids


def cache_texts(pipeline: Pipeline, texts: Iterable[str], cache: Path, progress: Progress) -> None:
    """Fill the codec's vectors for every distinct text, from the cache or the frozen text tower."""
    store = FeatureCache(cache, pipeline.text_fingerprint())
    wanted = {text: sha256_bytes(text.encode()) for text in dict.fromkeys(texts)}
    unknown = [text for text, key in wanted.items() if key not in store.vectors]
    missing = ordered(unknown, pipeline.codec.tokenizer, pipeline.model.shares_prefixes)
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        store.add([wanted[text] for text in part], pipeline.encode_texts(part))
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding texts once")
    pipeline.codec.text_vectors.update({text: store.vectors[key] for text, key in wanted.items()})


def prepare(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    """Make a split ready: images checked or encoded, texts encoded where their tower is frozen.

    Generated data passes through unless a tower is frozen: it cannot be broken. Each part of a mixture is made ready.
    """
    return dataset.map_parts(lambda _, part: _prepare_part(pipeline, part, cache, progress))


def _prepare_part(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    config = pipeline.config
    if dataset.is_generated and not (config.model.image.frozen or config.model.text.frozen):
        return dataset
    ready: Dataset
    if config.model.image.frozen:
        ready = encode_images(pipeline, dataset, cache, progress)
    elif dataset.is_generated:
        ready = FirstEpoch(dataset)
    else:
        ready = check_images(dataset, progress)
    dataset.ledger.check(config.data.max_rejected)
    if config.model.text.frozen:
        cache_texts(pipeline, _texts_read_once(pipeline, examples_of(ready)), cache, progress)
    return ready


def _texts_read_once(pipeline: Pipeline, examples: Sequence[Example]) -> list[str]:
    """The texts of the examples that a frozen text tower encodes before training."""
    return [text for task in pipeline.tasks.values() for text in task.texts_read(examples)]


def not_cached(pipeline: Pipeline, examples: Sequence[Example], cache: Path) -> tuple[list[Example], list[str]]:
    """Images and texts that `prepare` would encode: inputs of frozen towers that are not in the cache."""
    images, texts = list[Example](), list[str]()
    if pipeline.config.model.image.frozen:
        store = FeatureCache(cache, pipeline.image_fingerprint())
        known = store.grids if pipeline.config.model.image.grid else store.vectors
        for example in examples:
            with suppress(ImageError):
                if any(image.content_key() not in known for image in images_of(example)):
                    images.append(example)
    if pipeline.config.model.text.frozen:
        vectors = FeatureCache(cache, pipeline.text_fingerprint()).vectors
        distinct = dict.fromkeys(_texts_read_once(pipeline, examples))
        texts = [text for text in distinct if sha256_bytes(text.encode()) not in vectors]
    return images, texts
