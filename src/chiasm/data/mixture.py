"""A mixture of datasets, sampled in shares that do not depend on their sizes alone."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Example
from chiasm.data.dataset import Dataset
from chiasm.data.ledger import Ledger


class MixedDataset:
    """Sets that share an epoch, which is as long as all of them together.

    The share of set i is proportional to `weight_i * size_i ** (1 / temperature)`, as multilingual models mix their
    languages (Conneau et al. 2020, section 3.1, with alpha = 1 / temperature): 1 keeps the sizes, infinity takes as
    much of each. A set's places in the epoch are filled in its own shuffled order, which goes on in the next epoch
    where it ended in the last; so over a run each example of a set is used equally often, give or take one. A
    generator among the sets is told how often it has been gone through as its epoch.

    Which example stands at a place is a function of (sets, seed, epoch, place).

    Args:
        parts: name -> set; the first is the main one. A set of frozen features may stand for the set it was made of.
        weights: factor of each set's share, above 0.
        temperature: above 0; infinity is allowed.
        seed: of the orders.
    """

    def __init__(self, parts: Mapping[str, Dataset], weights: Sequence[float], temperature: float, seed: int) -> None:
        assert len(parts) == len(weights), "one weight a set"
        self.parts: Mapping[str, Dataset] = dict(parts)
        self.weights, self.temperature, self.seed = tuple(weights), temperature, seed
        self.split = next(iter(parts.values())).split
        self.sizes = [len(part) for part in parts.values()]
        self.counts = _counts(self.parts, self.sizes, self.weights, temperature)
        self._ends = list(accumulate(self.counts))

    def map_parts(self, change: Callable[[str, Dataset], Dataset]) -> "MixedDataset":
        """Return the mixture of `change(name, part)` under the same names, such as these sets checked or encoded."""
        changed = {name: change(name, part) for name, part in self.parts.items()}
        return MixedDataset(changed, self.weights, self.temperature, self.seed)

    @property
    def is_generated(self) -> bool:
        """Whether all parts are."""
        return all(part.is_generated for part in self.parts.values())

    @property
    def ledger(self) -> Ledger:
        """The sets' ledgers added up as they are now; items are withdrawn from a set's own."""
        return Ledger.added(part.ledger for part in self.parts.values())

    def __len__(self) -> int:
        return sum(self.sizes)

    def example(self, index: int, epoch: int = 0) -> Example:
        """Return the example at a place of an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        used = epoch * self.counts[number] + index - (self._ends[number] - self.counts[number])
        size = self.sizes[number]
        name = list(self.parts)[number]
        passes, place = divmod(used, size)
        return self.parts[name].example(int(_order(name, size, self.seed, passes)[place]), passes)


def with_part(dataset: Dataset, name: str, part: Dataset, seed: int) -> MixedDataset:
    """Return the mixture of a set, or of the sets of a mixture, and one more with the weight 1.

    Raises:
        InputError: the mixture has a set of this name.
    """
    if name in dataset.parts:
        raise InputError(f"data.others has a set called {name!r}", "another name", "rename it")
    parts = {**dataset.parts, name: part}
    if isinstance(dataset, MixedDataset):
        return MixedDataset(parts, (*dataset.weights, 1.0), dataset.temperature, seed)
    return MixedDataset(parts, [1.0] * len(parts), 1.0, seed)


@lru_cache(maxsize=16)
def _order(name: str, size: int, seed: int, passes: int) -> np.ndarray:
    """The shuffled order of one pass through a set; cached for all positions of the pass."""
    return counter_rng("mixture", seed, name, passes).permutation(size)


def _counts(
    parts: Mapping[str, Dataset], sizes: Sequence[int], weights: Sequence[float], temperature: float
) -> list[int]:
    """Places of each set in an epoch: the shares, rounded so that they add up (largest remainders first)."""
    if not temperature > 0:
        raise InputError(
            f"data.mixture_temperature is {temperature}", "a number above 0", "1 keeps the sizes of the sets"
        )
    for name, size, weight in zip(parts, sizes, weights, strict=True):
        if not weight > 0 or not size:
            raise InputError(
                f"the set {name!r} has the weight {weight} and {size} examples",
                "a weight above 0 and an example",
                "leave the set out of data.others, or correct it",
            )
    raw = [weight * size ** (1 / temperature) for size, weight in zip(sizes, weights, strict=True)]
    exact = [share / sum(raw) * sum(sizes) for share in raw]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: sum(sizes) - sum(counts)]:
        counts[number] += 1
    for name, count in zip(parts, counts, strict=True):
        if not count:
            raise InputError(
                f"the set {name!r} has a share of less than one example in an epoch",
                "a share that is used",
                f"raise data.others.{name}.weight or data.mixture_temperature",
            )
    return counts
