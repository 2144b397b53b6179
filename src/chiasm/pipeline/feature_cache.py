"""Before training and evaluation: every picture is looked at once, and frozen towers are run once.

What a frozen tower makes of a picture or text is cached by the content of what it encodes.

A cache folder holds one subfolder per tower and preprocessing; in it, immutable chunk files. A chunk is written
whole or not at all, so an interrupted pass loses at most one chunk and a second pass continues after it. A chunk is a
safetensors file named after its own hash, with the content keys in its metadata, the vectors float32 [n, d] as
`values` and, where the run keeps them, the grids of tokens float16 [n, l, c] as `grid`.

Axis legend: n pictures or texts, d numbers of a pooled vector, l tokens of the grid, c numbers a token.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes, sha256_file, write_bytes
from chiasm.core.types import Example, Tokens
from chiasm.data.dataset import Dataset, ListDataset, MappedDataset, examples_of
from chiasm.data.files import LABEL_GROUP
from chiasm.data.image import ImageError
from chiasm.data.ledger import Ledger
from chiasm.pipeline.batching import FEATURES, Features, in_threads, stack_pictures
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.space import TEXTS_AT_ONCE
from chiasm.tasks.text_targets import TARGETS, caption_targets

CHUNK = 512
"""Pictures or texts in a file of the cache."""
DECODED_AT_ONCE = 64
"""Decoded pictures in memory: a driver's wide views of a whole chunk would be most of a gigabyte."""
Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


def cache_root() -> Path:
    """`CHIASM_CACHE`, or `chiasm` in the user's cache folder."""
    named = os.environ.get("CHIASM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chiasm"


class FeatureCache:
    """Content key (hexadecimal SHA-256) -> vector and perhaps grid, on disk.

    Args:
        folder: where chunks live.
        fingerprint: names the tower, its weights and its preprocessing; another fingerprint never meets these files.

    Attributes:
        vectors: key -> float32 [d], in memory.
        grids: key -> float16 [l, c], mapped from its file: the system reads it when it is used and may forget it again.
            The keys are those that were added with a grid, and all of them are in `vectors` too.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint
        self.vectors: dict[str, np.ndarray] = {}
        self.grids: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if sha256_file(path)[:16] != path.stem:
                path.unlink(missing_ok=True)  # a damaged chunk is only a lost shortcut: its items are encoded again
                continue
            self._read(path)

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
            # Vectors are small and every step uses them, so they are copied into memory.
            self.vectors.update(zip(keys, file.get_tensor("values").numpy().copy(), strict=True))
            if "grid" in file.keys():  # noqa: SIM118 - the file is no dict
                self.grids.update(zip(keys, file.get_tensor("grid").numpy(), strict=True))


def readable_pictures(examples: Sequence[Example], ledger: Ledger, progress: Progress) -> list[Example]:
    """Decode every picture once before training, so that a broken one is found now and not in the middle of an epoch.

    Unreadable pictures go to the ledger. Equal pictures under two names become one group, so that they are never
    each other's false negatives; pictures of one class stay in the group of their class.
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
                kept.append(replace(example, group=_group(example, key)))
            if done % CHUNK == 0 or done == len(examples):
                progress(done, len(examples), "checking pictures")
    return kept


def cached_pictures(
    pipeline: Pipeline, examples: Iterable[Example], ledger: Ledger, cache: Path, progress: Progress
) -> list[Example]:
    """Give every example its `Features` under `image_features`; unreadable pictures go to the ledger.

    Groups are those of `readable_pictures`. Only one chunk of tokens, and fewer pictures, are in memory at a time.
    """
    store = FeatureCache(cache, pipeline.image_fingerprint())
    has_grid = pipeline.config.model.image.grid
    known = store.grids if has_grid else store.vectors
    keyed: list[tuple[str, Example]] = []
    for example in examples:
        try:
            keyed.append((example.inputs["image"].content_key(), example))
        except ImageError as error:
            ledger.withdraw(example.source, error.code, error.given)
    missing = list({key: example for key, example in keyed if key not in known}.items())
    unreadable: dict[str, ImageError] = {}
    for start in range(0, len(missing), CHUNK):
        unreadable |= _encode_chunk(pipeline, missing[start : start + CHUNK], store)
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding pictures once")
    for key, example in keyed:
        if key in unreadable:
            ledger.withdraw(example.source, unreadable[key].code, unreadable[key].given)
    kept = []
    for key, example in keyed:
        if key not in unreadable:
            features = Features(store.vectors[key], store.grids[key] if has_grid else None)
            kept.append(replace(example, inputs={**example.inputs, FEATURES: features}, group=_group(example, key)))
    return kept


def _encode_chunk(
    pipeline: Pipeline, part: Sequence[tuple[str, Example]], store: FeatureCache
) -> dict[str, ImageError]:
    """Encode the pictures of one chunk into the store, and return why some of them cannot be read."""
    tower = pipeline.config.model.image
    unreadable: dict[str, ImageError] = {}
    keys: list[str] = []
    vectors, grids = [], []

    def readable(example: Example) -> Tensor | ImageError:
        try:
            return stack_pictures([example.inputs["image"].load()], tower)
        except ImageError as error:
            return error

    for start in range(0, len(part), DECODED_AT_ONCE):
        some = part[start : start + DECODED_AT_ONCE]
        found = in_threads(readable, [example for _, example in some], pipeline.config.data.workers)
        pictures = []
        for (key, _), one in zip(some, found, strict=True):
            if isinstance(one, ImageError):
                unreadable[key] = one
            else:
                pictures.append(one)
                keys.append(key)
        if pictures:
            tokens = pipeline.encode_pixels(torch.cat(pictures))
            vectors.append(tokens.pooled.cpu().numpy())
            if tower.grid:
                grids.append(_grids(tokens))
    if keys:
        store.add(keys, np.concatenate(vectors), np.concatenate(grids) if tower.grid else None)
    return unreadable


def _grids(tokens: Tokens) -> np.ndarray:
    """The tokens as float16 [n, l, c]: half the space, and still finer than bf16, in which training may read them."""
    assert bool(tokens.is_real.all()), "pictures of one size have no padded tokens"
    grids: np.ndarray = tokens.values.half().cpu().numpy()
    assert np.isfinite(grids).all(), "the tower's tokens do not fit float16"
    return grids


def _group(example: Example, key: str) -> str:
    return example.group if example.group.startswith(LABEL_GROUP) else key


def cache_texts(pipeline: Pipeline, texts: Iterable[str], cache: Path, progress: Progress) -> None:
    """Fill the codec's vectors for every distinct text, from the cache or the frozen text tower."""
    store = FeatureCache(cache, pipeline.text_fingerprint())
    wanted = {text: sha256_bytes(text.encode()) for text in dict.fromkeys(texts)}
    missing = [(text, key) for text, key in wanted.items() if key not in store.vectors]
    missing.sort(key=lambda pair: len(pair[0]))  # texts of one length share a batch, so little padding is computed
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        store.add([key for _, key in part], pipeline.encode_texts([text for text, _ in part]).pooled.cpu().numpy())
        progress(min(start + CHUNK, len(missing)), len(missing), "encoding texts once")
    pipeline.codec.text_vectors.update({text: store.vectors[key] for text, key in wanted.items()})


def prepare(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    """Make a split ready: pictures checked or encoded, texts encoded where their tower is frozen.

    Generated data passes through unless a tower is frozen: it cannot be broken. Of a mixture each set is made ready.
    """
    return dataset.map_parts(lambda _, part: _prepare_part(pipeline, part, cache, progress))


def _prepare_part(pipeline: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    config = pipeline.config
    if dataset.is_generated and not (config.model.image.frozen or config.model.text.frozen):
        return dataset
    examples = [dataset.example(number) for number in range(len(dataset))]
    if config.model.image.frozen:
        examples = cached_pictures(pipeline, examples, dataset.ledger, cache, progress)
    elif not dataset.is_generated:
        examples = readable_pictures(examples, dataset.ledger, progress)
    dataset.ledger.check(config.data.max_rejected)
    if config.model.text.frozen:
        cache_texts(pipeline, _texts_read_once(pipeline, examples), cache, progress)
    return ListDataset(dataset.split, examples, dataset.ledger)


def _texts_read_once(pipeline: Pipeline, examples: Sequence[Example]) -> list[str]:
    """The texts of the examples that a frozen text tower encodes before training."""
    return [text for task in pipeline.tasks.values() for text in task.texts_read(examples)]


def not_cached(pipeline: Pipeline, examples: Sequence[Example], cache: Path) -> tuple[list[Example], list[str]]:
    """Pictures and texts that `prepare` would encode now: what frozen towers see and the cache does not hold."""
    pictures, texts = list[Example](), list[str]()
    if pipeline.config.model.image.frozen:
        store = FeatureCache(cache, pipeline.image_fingerprint())
        known = store.grids if pipeline.config.model.image.grid else store.vectors
        for example in examples:
            with suppress(ImageError):
                if example.inputs["image"].content_key() not in known:
                    pictures.append(example)
    if pipeline.config.model.text.frozen:
        vectors = FeatureCache(cache, pipeline.text_fingerprint()).vectors
        distinct = dict.fromkeys(_texts_read_once(pipeline, examples))
        texts = [text for text in distinct if sha256_bytes(text.encode()) not in vectors]
    return pictures, texts


def taught(teacher: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    """Give every example of a prepared split the teacher's `caption_targets`, under `TARGETS`.

    Args:
        teacher: a run with a contrast, which reads the languages of its own data.
        dataset: a split as `prepare` returns it where the image tower is frozen.
        cache: where vectors of the teacher's text tower are kept, if that is frozen.
        progress: told how far it is.

    Raises:
        InputError: no caption is in a language of the teacher.
    """
    return dataset.map_parts(lambda _, part: _attach_to_part(teacher, part, cache, progress))


def _attach_to_part(teacher: Pipeline, dataset: Dataset, cache: Path, progress: Progress) -> Dataset:
    languages = set(teacher.config.data.languages)
    captions = (caption for example in examples_of(dataset) for caption in example.captions)
    texts = list(dict.fromkeys(caption.text for caption in captions if caption.language in languages))
    if not texts:
        raise InputError(
            f"split {dataset.split!r} has no caption in {', '.join(sorted(languages))}, the teacher's languages",
            "captions in a language that the run of init_from reads, beside the new one",
            "name both in data.languages",
        )
    if teacher.config.model.text.frozen:
        cache_texts(teacher, texts, cache, progress)
    space = teacher.shared_space()
    known: dict[str, np.ndarray] = {}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        known |= dict(zip(part, space.embed_texts(teacher.model, teacher.codec, part), strict=True))
        progress(min(start + TEXTS_AT_ONCE, len(texts)), len(texts), "asking the teacher once")

    def with_targets(example: Example) -> Example:
        return replace(example, inputs={**example.inputs, TARGETS: caption_targets(example.captions, known)})

    return MappedDataset(dataset, with_targets)
