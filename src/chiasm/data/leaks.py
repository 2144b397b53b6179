"""No image that is measured on is trained on: training data is compared with every held-out split before step 0.

Two images are the same where their bytes are, whatever the files are called, and count as copies where their group is
the same (a patient, a concept) or, if `data.leak_likeness` asks for it, their small grey versions. Only files of equal
size are hashed, so the comparison costs a fraction of a second for some thousand photos.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.types import Example, ImageRef
from chiasm.data.config import DataConfig
from chiasm.data.dataset import MAIN, Dataset, Subset, examples_of
from chiasm.data.files import LABEL_GROUP
from chiasm.data.image import ImageError
from chiasm.data.ledger import LEAK
from chiasm.data.likeness import GREY_PX, grey_file, grey_version
from chiasm.data.modalities.image import image_files_of
from chiasm.data.opening import SOURCES, open_dataset
from chiasm.data.sources.records import canonical_split

DRAWN = frozenset({"validation_drawn", "split_drawn"})
"""Codes of the ledger's notes on splits that the files do not name, and that were drawn from all examples."""
ROWS_AT_ONCE = 1024
T = TypeVar("T")


class RunData(Protocol):
    """The part of a run config that names training and evaluation data."""

    @property
    def data(self) -> DataConfig:
        """Where examples come from."""
        ...

    @property
    def seed(self) -> int:
        """Of every draw."""
        ...

    @property
    def test_split(self) -> str:
        """Split that the final table is measured on."""
        ...


class Training(NamedTuple):
    """A training set without held-out images; `message` states what was removed or kept, "" where nothing was."""

    dataset: Dataset
    message: str


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A split that is measured on."""

    split: str
    path: str
    """Of the data: groups are compared within one set of files alone."""
    examples: Sequence[Example]
    is_drawn: bool
    """chiasm drew it from the training files itself, by a hash of names, so copies may lie on both sides."""


class Leak(NamedTuple):
    """A training example (its number), and the held-out example that it repeats."""

    number: int
    held: Example
    split: HeldOut
    why: str


def open_training(config: RunData, also: Iterable[RunData] = ()) -> Training:
    """Open what a run trains on, and leave out or refuse what is also held out.

    Held out are "val", the run's `test_split`, and a split "test" wherever the files have one.

    Args:
        config: the run.
        also: further runs whose held-out splits must not be trained on either, such as the one that a stage is for.

    Raises:
        InputError: as `open_dataset`; or a leak, where `data.on_leak` is "refuse".
    """
    training = open_dataset(config.data, "train", config.seed)
    held = [one for run in (config, *also) for one in held_out(run)]
    messages = list[str]()

    def checked(name: str, part: Dataset) -> Dataset:
        return part if part.is_generated else _without_leaks(name, part, held, config.data, messages)

    return Training(training.map_parts(checked), "\n".join(messages))


def held_out(config: RunData) -> list[HeldOut]:
    """The splits of files that a run is measured on; what a generator draws for them is never drawn for training."""
    data = config.data
    splits = SOURCES[data.source].splits
    if splits is None:
        return []
    trained = {canonical_split(name) for name in data.train_split.split("+")}
    names = ["val", config.test_split]
    names += [name for name in splits(data) if canonical_split(name) == "test" and "test" not in trained]
    found = []
    for name in {canonical_split(name): name for name in names}.values():
        dataset = open_dataset(data, name, config.seed)
        is_drawn = bool(DRAWN & set(dataset.ledger.counts("note")))
        found.append(HeldOut(name, data.path, list(examples_of(dataset)), is_drawn))
    return found


def _without_leaks(
    name: str, part: Dataset, held: Sequence[HeldOut], config: DataConfig, messages: list[str]
) -> Dataset:
    """The part without examples that are held out, or an error; what was found is added to `messages`."""
    path = config.path if name == MAIN else config.others[name].path
    examples = list(examples_of(part))
    groups = [_group_in(example, "" if name == MAIN else f"{name}/") for example in examples]
    leaks = {one.number: one for one in _shared_groups(groups, path, held)}
    leaks |= {one.number: one for one in _shared_bytes(examples, held)}
    if config.leak_likeness:
        alike = _alike(examples, held, config.leak_likeness)
        leaks = {one.number: one for one in alike} | leaks
    if not leaks:
        return part
    found = [leaks[number] for number in sorted(leaks)]
    refused = [one for one in found if config.on_leak == "refuse" and not one.split.is_drawn]
    if refused:
        raise InputError(
            f"{len(refused)} of the {len(part)} training examples of {path} are also held out; "
            f"the first: {_described(examples, refused[0])}",
            "no image, and no group such as a patient, both in training and in a split that is measured",
            "take it out of one side, or leave all of them out of training with --set data.on_leak=drop",
        )
    for one in found:
        source, text = examples[one.number].source, _described(examples, one)
        if config.on_leak == "keep":
            part.ledger.note(source, LEAK, text)
        else:
            part.ledger.withdraw(source, LEAK, text)
    what = "kept in training although held out" if config.on_leak == "keep" else "left out of training, as held out"
    messages.append(
        f"{path}: {what}: {len(found)} of {len(part)} examples; the first: {_described(examples, found[0])}"
    )
    if config.on_leak == "keep":
        return part
    return Subset(part, [number for number in range(len(part)) if number not in leaks])


def _described(examples: Sequence[Example], leak: Leak) -> str:
    own = examples[leak.number]
    return f"{own.id!r} ({own.source}) {leak.why} {leak.held.id!r} ({leak.held.source}) of {leak.split.split!r}"


def _group_in(example: Example, prefix: str) -> str:
    """The group as the files write it; "" for none, and for classes, which all splits share."""
    group = example.group.removeprefix(prefix)
    return "" if group.startswith(LABEL_GROUP) else group


def _shared_groups(groups: Sequence[str], path: str, held: Sequence[HeldOut]) -> Iterator[Leak]:
    by_group: dict[str, tuple[Example, HeldOut]] = {}
    for split in held:
        if os.path.realpath(split.path) == os.path.realpath(path):
            for example in split.examples:
                if group := _group_in(example, ""):
                    by_group.setdefault(group, (example, split))
    for number, group in enumerate(groups):
        if group in by_group:
            yield Leak(number, *by_group[group], f"is of the group {group!r}, as is")


def _shared_bytes(examples: Sequence[Example], held: Sequence[HeldOut]) -> Iterator[Leak]:
    own = [(number, ref) for number, example in enumerate(examples) for ref in image_files_of(example)]
    others = [(example, split, ref) for split in held for example in split.examples for ref in image_files_of(example)]
    sizes, other_sizes = [_size_bytes(ref) for _, ref in own], [_size_bytes(ref) for *_, ref in others]
    # Files of different sizes have different bytes; an image without a file is compared with all.
    anywhere = {None} & {*sizes, *other_sizes}
    common = (set(sizes) & set(other_sizes)) | ({*sizes, *other_sizes} if anywhere else set())
    own = [one for one, size in zip(own, sizes, strict=True) if size in common]
    others = [one for one, size in zip(others, other_sizes, strict=True) if size in common]
    by_key: dict[str, tuple[Example, HeldOut]] = {}
    for (example, split, _), key in zip(others, _in_threads(_key, [one[2] for one in others]), strict=True):
        if key:
            by_key.setdefault(key, (example, split))
    for (number, _), key in zip(own, _in_threads(_key, [ref for _, ref in own]), strict=True):
        if key in by_key:
            yield Leak(number, *by_key[key], "has the very bytes of")


def _alike(examples: Sequence[Example], held: Sequence[HeldOut], above: float) -> Iterator[Leak]:
    own = [(number, ref) for number, example in enumerate(examples) for ref in image_files_of(example)]
    others = [(example, split, ref) for split in held for example in split.examples for ref in image_files_of(example)]
    grey, other_grey = (
        np.stack([*_in_threads(_grey, refs), np.zeros(GREY_PX**2, dtype=np.float32)])
        for refs in ([ref for _, ref in own], [ref for *_, ref in others])
    )
    for start in range(0, len(own), ROWS_AT_ONCE):
        likeness = grey[start : start + ROWS_AT_ONCE] @ other_grey.T / GREY_PX**2
        best = likeness.argmax(1)
        for row in np.flatnonzero(likeness.max(1) >= above):
            if start + row < len(own) and best[row] < len(others):
                example, split, _ = others[best[row]]
                why = f"looks like (correlation {likeness[row, best[row]]:.3f})"
                yield Leak(own[start + row][0], example, split, why)


def _size_bytes(ref: ImageRef) -> int | None:
    """Size of the image's file; None where there is none, and -1 where it cannot be found any more."""
    if ref.path is None:
        return None
    try:
        return os.stat(ref.path).st_size
    except OSError:
        return -1


def _key(ref: ImageRef) -> str:
    """The content key; "" for an image that cannot be read, which is reported when the images are read."""
    try:
        return ref.content_key()
    except ImageError:
        return ""


def _grey(ref: ImageRef) -> np.ndarray:
    """The small grey version as float32 [256]; zeros, which resemble nothing, for an image that cannot be read."""
    try:
        grey = grey_version(ref.load()) if ref.path is None else grey_file(ref.path)
    except ImageError:
        return np.zeros(GREY_PX**2, dtype=np.float32)
    return grey.astype(np.float32).ravel()


def _in_threads(work: Callable[[ImageRef], T], refs: Sequence[ImageRef]) -> list[T]:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(work, refs))
