"""Before training and evaluation: every picture is looked at once, and frozen towers are run once.

A frozen tower's vectors are cached by the content of what it encodes.

A cache folder holds one subfolder per tower and preprocessing; in it, immutable chunk files. A chunk is written
whole or not at all, so an interrupted pass loses at most one chunk and a second pass continues after it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save

from chiasm.core.files import sha256_bytes, sha256_file, write_bytes
from chiasm.core.types import Example
from chiasm.data.dataset import Dataset, ListDataset
from chiasm.data.image import ImageError
from chiasm.data.ledger import Ledger
from chiasm.tasks.batching import FEATURES, stack_pictures
from chiasm.tasks.pipeline import Pipeline

CHUNK = 512
Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


def cache_root() -> Path:
    """`CHIASM_CACHE`, or `chiasm` in the user's cache folder."""
    named = os.environ.get("CHIASM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chiasm"


class FeatureCache:
    """Content key (hexadecimal SHA-256) -> float32 vector, on disk.

    Args:
        folder: where chunks live.
        fingerprint: names the tower, its weights and its preprocessing; another fingerprint never meets these files.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint
        self.vectors: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if sha256_file(path)[:16] != path.stem:
                path.unlink(missing_ok=True)  # a damaged chunk is only a lost shortcut: its items are encoded again
                continue
            with safetensors.safe_open(path, framework="np") as file:
                keys = file.metadata()["keys"].split()
                values = file.get_tensor("values")
            self.vectors.update(zip(keys, values, strict=True))

    def add(self, keys: Sequence[str], values: np.ndarray) -> None:
        """Store vectors float32 [n, d] under their keys, durably."""
        content = save({"values": torch.from_numpy(np.ascontiguousarray(values))}, metadata={"keys": " ".join(keys)})
        write_bytes(self.folder / f"{sha256_bytes(content)[:16]}.safetensors", content)
        self.vectors.update(zip(keys, values, strict=True))


def readable_pictures(examples: Sequence[Example], ledger: Ledger, progress: Progress) -> list[Example]:
    """Decode every picture once before training, so that a broken one is found now and not in the middle of an epoch.

    Unreadable pictures go to the ledger. Equal pictures under two names become one group, so that they are never
    each other's false negatives.
    """

    def key_of(example: Example) -> str | ImageError:
        try:
            example.inputs["image"].load()
            return str(example.inputs["image"].content_key())
        except ImageError as error:
            return error

    kept = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, (example, key) in enumerate(zip(examples, pool.map(key_of, examples), strict=True), 1):
            if isinstance(key, ImageError):
                ledger.withdraw(example.source, key.code, key.given)
            else:
                kept.append(replace(example, group=key))
            if done % CHUNK == 0 or done == len(examples):
                progress(done, len(examples), "checking pictures")
    return kept


def cached_pictures(
    pipeline: Pipeline, examples: Iterable[Example], ledger: Ledger, cache: Path, progress: Progress
) -> list[Example]:
    """Give every example its frozen vector under `image_features`; unreadable pictures go to the ledger."""
    store = FeatureCache(cache, pipeline.image_fingerprint())
    keyed: list[tuple[str, Example]] = []
    for example in examples:
        try:
            keyed.append((example.inputs["image"].content_key(), example))
        except ImageError as error:
            ledger.withdraw(example.source, error.code, error.given)
    missing = list({key: example for key, example in keyed if key not in store.vectors}.items())
    unreadable: dict[str, ImageError] = {}
    for start in range(0, len(missing), CHUNK):
        keys, pictures = [], []
        for key, example in missing[start : start + CHUNK]:
            try:
                pictures.append(stack_pictures([example.inputs["image"].load()], pipeline.config.model.image))
                keys.append(key)
            except ImageError as error:
                unreadable[key] = error
        if keys:
            store.add(keys, pipeline.encode_pixels(torch.cat(pictures)).pooled.numpy())
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding pictures once")
    for key, example in keyed:
        if key in unreadable:
            ledger.withdraw(example.source, unreadable[key].code, unreadable[key].given)
    return [
        replace(example, inputs={**example.inputs, FEATURES: store.vectors[key]}, group=key)
        for key, example in keyed
        if key not in unreadable
    ]


def cache_texts(pipeline: Pipeline, texts: Iterable[str], cache: Path, progress: Progress) -> None:
    """Fill the codec's vectors for every distinct text, from the cache or the frozen text tower."""
    store = FeatureCache(cache, pipeline.text_fingerprint())
    wanted = {text: sha256_bytes(text.encode()) for text in dict.fromkeys(texts)}
    missing = [(text, key) for text, key in wanted.items() if key not in store.vectors]
    missing.sort(key=lambda pair: len(pair[0]))  # texts of one length share a batch, so little padding is computed
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        store.add([key for _, key in part], pipeline.encode_texts([text for text, _ in part]).pooled.numpy())
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding texts once")
    pipeline.codec.text_vectors.update({text: store.vectors[key] for text, key in wanted.items()})


def prepare(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    """Make a split ready: pictures checked or encoded, texts encoded where their tower is frozen.

    Generated data passes through unless a tower is frozen: it cannot be broken.
    """
    config = pipeline.config
    is_generated = config.data.source != "files"
    if is_generated and not (config.model.image.frozen or config.model.text.frozen):
        return dataset
    examples = [dataset.example(number) for number in range(len(dataset))]
    if config.model.image.frozen:
        examples = cached_pictures(pipeline, examples, dataset.ledger, cache, progress)
    elif not is_generated:
        examples = readable_pictures(examples, dataset.ledger, progress)
    dataset.ledger.check(config.data.max_rejected)
    if config.model.text.frozen:
        cache_texts(pipeline, (caption.text for example in examples for caption in example.captions), cache, progress)
    return ListDataset(dataset.split, examples, dataset.ledger)
