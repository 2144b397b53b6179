"""Duplicates and near-duplicates: copies, other sizes, other compressions, small crops.

Candidates are pairs with a large cosine; the correlation of small grey versions confirms them. The cosine alone would
also report different scenes of equal meaning.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.data.image import ImageError
from chiasm.data.likeness import grey_file
from chiasm.serve.index.store import Store, Vector

LIKE = 0.95
"""Least correlation of the grey versions of two duplicates."""
ROWS_AT_ONCE = 2048
MOST_PAIRS = 1_000_000


class Pair(NamedTuple):
    """Two images with equal content; `pixels` is the correlation of their grey versions, 1 for equal bytes."""

    first: str
    second: str
    similarity: float
    pixels: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of duplicate images.

    Attributes:
        groups: sorted paths of the images of each group; the largest group first.
        pairs: the pairs that the groups consist of.
        compared: number of pairs whose vectors were near enough for their pixels to be compared.
    """

    groups: list[list[str]]
    pairs: list[Pair]
    compared: int


def find_duplicates(store: Store, above: float = 0.9, like: float = LIKE) -> Duplicates:
    """Compare every image with every other one.

    Args:
        store: an index.
        above: minimum cosine, in (0, 1], of two images whose pixels are compared.
        like: minimum correlation of the grey versions, in [-1, 1], of two duplicates.

    Raises:
        InputError: a number out of its range, or more near pairs than can be compared.
    """
    if not 0 < above <= 1 or not -1 <= like <= 1:
        raise InputError(f"above is {above}, like {like}", "above in (0, 1], like in [-1, 1]", "choose others")
    with store.transaction():
        numbers = [int(row[0]) for row in store.rows("SELECT number FROM vectors ORDER BY number")]
        items, vectors = store.items(numbers), store.vectors(numbers)
    matrix = np.stack([vectors[number] for number in numbers]) if numbers else np.zeros((0, store.dim), np.float32)
    grey: dict[str, npt.NDArray[np.float64] | None] = {}
    pairs, compared = list[Pair](), 0
    for first, second, cosine in _near(matrix, above):
        one, other = items[numbers[first]], items[numbers[second]]
        compared += 1
        if compared > MOST_PAIRS:
            raise InputError(f"more than {MOST_PAIRS} pairs are above {above}", "a larger --above", "try 0.99")
        pixels = 1.0 if one.content == other.content else _alike(one.path, other.path, grey)
        if pixels >= like:
            pairs.append(Pair(min(one.path, other.path), max(one.path, other.path), cosine, pixels))
    pairs.sort(key=lambda pair: (-pair.pixels, -pair.similarity, pair.first, pair.second))
    return Duplicates(_groups(pairs), pairs, compared)


def _near(matrix: Vector, above: float) -> Iterable[tuple[int, int, float]]:
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        products = matrix[start : start + ROWS_AT_ONCE] @ matrix[start:].T
        for row, column in np.argwhere(np.triu(products >= above - 1e-6, 1)):
            yield start + int(row), start + int(column), float(products[row, column])


def _alike(first: str, second: str, grey: dict[str, npt.NDArray[np.float64] | None]) -> float:
    for path in (first, second):
        if path not in grey:
            grey[path] = _grey(path)
    one, other = grey[first], grey[second]
    return -1.0 if one is None or other is None else float(np.mean(one * other))


def _grey(path: str) -> npt.NDArray[np.float64] | None:
    """The small grey version; None where the file can no longer be read."""
    try:
        return grey_file(path)
    except ImageError:
        return None


def _groups(pairs: Sequence[Pair]) -> list[list[str]]:
    head: dict[str, str] = {}

    def root(path: str) -> str:
        while head.setdefault(path, path) != path:
            head[path] = path = head[head[path]]
        return path

    for pair in pairs:
        first, second = sorted((root(pair.first), root(pair.second)))
        head[second] = first
    groups: dict[str, list[str]] = {}
    for path in sorted(head):
        groups.setdefault(root(path), []).append(path)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))
