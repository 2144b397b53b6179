"""The dataset protocol: indexable, and a pure function of (index, epoch)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, overload

import numpy as np

from chiasm.core.errors import InputError, nearest
from chiasm.core.random import counter_rng
from chiasm.core.types import Caption, Example
from chiasm.data.ledger import Ledger

MAIN = "data"
"""Name of the part that the config's `data` section names; a set that is no mixture is its only part."""
KINDS_LOOKED_FOR = 200
"""Examples of a generator among which every kind of question is expected to occur."""


class Dataset(Protocol):
    """Examples of one split."""

    @property
    def split(self) -> str:
        """Name of the split."""
        ...

    @property
    def ledger(self) -> Ledger:
        """What was not used, and why."""
        ...

    @property
    def is_generated(self) -> bool:
        """True where examples are drawn by a program: none can be broken, and a few stand for all."""
        ...

    @property
    def parts(self) -> Mapping[str, "Dataset"]:
        """Name -> set, of a mixture; `MAIN` -> itself of any other set."""
        ...

    def __len__(self) -> int:
        """Number of usable examples."""
        ...

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return an example; a generator may make new questions in each epoch, files ignore the epoch."""
        ...

    def map_parts(self, change: Callable[[str, "Dataset"], "Dataset"]) -> "Dataset":
        """Return the set with `change(name, part)` in the place of each part."""
        ...


class PlainDataset(ABC):
    """Base of every dataset that is no mixture: it is its own single part."""

    split: str
    ledger: Ledger
    is_generated: bool

    @abstractmethod
    def __len__(self) -> int:
        """Number of usable examples."""

    @abstractmethod
    def example(self, index: int, epoch: int = 0) -> Example:
        """Return an example."""

    @property
    def parts(self) -> Mapping[str, Dataset]:
        """`MAIN` -> itself."""
        return {MAIN: self}

    def map_parts(self, change: Callable[[str, Dataset], Dataset]) -> Dataset:
        """Return `change(MAIN, self)`."""
        return change(MAIN, self)


class ListDataset(PlainDataset):
    """Examples that were read from files; images are referred to, not held."""

    is_generated = False

    def __init__(self, split: str, examples: Sequence[Example], ledger: Ledger) -> None:
        self.split, self.examples, self.ledger = split, examples, ledger

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example `index`, the same in every epoch."""
        return self.examples[index]


class Subset(PlainDataset):
    """Some examples of a set, in a given order.

    Args:
        dataset: any set; its ledger is this one's.
        indices: int64 [n], places in `dataset`.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray | Sequence[int]) -> None:
        self.dataset, self.indices = dataset, np.asarray(indices, dtype=np.int64)
        self.split, self.ledger, self.is_generated = dataset.split, dataset.ledger, dataset.is_generated

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return the example of the set at place `indices[index]`."""
        return self.dataset.example(int(self.indices[index]), epoch)


class MappedDataset(PlainDataset):
    """A set of which each example is changed when it is asked for.

    Args:
        dataset: any set; its ledger is this one's.
        change: a pure function of the example.
    """

    def __init__(self, dataset: Dataset, change: Callable[[Example], Example]) -> None:
        self.dataset, self.change = dataset, change
        self.split, self.ledger, self.is_generated = dataset.split, dataset.ledger, dataset.is_generated

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return `change` of example `index`."""
        return self.change(self.dataset.example(index, epoch))


class FirstEpoch(PlainDataset):
    """The examples of a set's first epoch, the same in every epoch."""

    is_generated = False

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.split, self.ledger = dataset, dataset.split, dataset.ledger

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return example `index` of the first epoch."""
        return self.dataset.example(index)


def with_question_kinds(dataset: Dataset, kinds: Sequence[str]) -> Dataset:
    """Leave out questions of other kinds; an example without a question left stays.

    Raises:
        InputError: none of the first examples has a question of one of the kinds.
    """
    found = {question.kind for example in first_examples(dataset, KINDS_LOOKED_FOR) for question in example.questions}
    missing = [kind for kind in kinds if kind not in found]
    if missing:
        raise InputError(
            f"data.question_kinds has {missing[0]!r}{nearest(missing[0], found)}",
            "kinds of this data's questions: " + ", ".join(sorted(found)),
            "choose among them; () takes all",
        )

    def chosen(example: Example) -> Example:
        return replace(example, questions=tuple(one for one in example.questions if one.kind in kinds))

    return MappedDataset(dataset, chosen)


def order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the shuffled order of an epoch, int64 [length]: it depends on (length, seed, epoch) alone."""
    return counter_rng("order", seed, epoch).permutation(length)


def choose_captions(example: Example, count: int, seed: int, epoch: int) -> list[Caption]:
    """Draw up to `count` different captions of an example for an epoch, independent of its place in the batch."""
    if len(example.captions) <= count:
        return list(example.captions)
    chosen = counter_rng("caption", seed, epoch, example.id).permutation(len(example.captions))[:count]
    return [example.captions[number] for number in chosen]


class Examples(Sequence[Example]):
    """The examples of a set's first epoch as a sequence; each is made when it is asked for, and none is kept."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """The example at a place counted from either end, or a list of those in a slice."""
        places = range(len(self))[index]
        return self.dataset.example(places) if isinstance(places, int) else [self.dataset.example(n) for n in places]


def examples_of(dataset: Dataset) -> Sequence[Example]:
    """Every example of the first epoch."""
    return Examples(dataset)


def evenly_spread(size: int, count: int) -> list[int]:
    """Places of `count` examples, evenly spread over `size`; all where there are no more."""
    count = min(count, size)
    return [number * size // count for number in range(count)]


def first_examples(dataset: Dataset, generated: int) -> Iterator[Example]:
    """All examples of files, the first `generated` of a generator; of a mixture, those of each part."""
    for part in dataset.parts.values():
        yield from (part.example(index) for index in range(_first_of(part, generated)))


def count_first_examples(dataset: Dataset, generated: int) -> int:
    """How many examples `first_examples` gives."""
    return sum(_first_of(part, generated) for part in dataset.parts.values())


def _first_of(part: Dataset, generated: int) -> int:
    return min(len(part), generated) if part.is_generated else len(part)


def texts_of(examples: Iterable[Example]) -> Iterable[str]:
    """Every caption, question and answer, for learning a vocabulary."""
    for example in examples:
        yield from (caption.text for caption in example.captions)
        yield from (question.text for question in example.questions)
        yield from (answer for question in example.questions for answer in question.answers)
