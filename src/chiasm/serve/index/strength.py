"""Detection of weak matches: whether the results of a text query match better than those of unrelated words.

Cosines are not calibrated: they depend on the model, the words and the collection. Therefore 200 names of unrelated
things, most of them in none of the images, are searched in the same images. The cosine of an image with the query is
standardised by the image's cosines with the names (mean 0, standard deviation 1), which also corrects for images near
to every text. The match is weak if the best standardised cosine is no larger than that of many names.

Measured by `python benchmarks/weak_matches.py`, in docs/search.md. English only; images as queries are not judged.

Axis legend: r names, e numbers of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.files import cache_root, sha256_bytes
from chiasm.models.encoders.imagenet import imagenet_classes
from chiasm.pipeline.feature_cache import FeatureCache
from chiasm.serve.engine import Model
from chiasm.serve.index.store import Store, Value, Vector

EVERY = 5
"""Of ImageNet's 1,000 classes every fifth is a name."""
FEWEST = 100
"""Names that the model must be able to read; with fewer nothing is judged."""
MOST_PIECES = 2.0
"""Tokens a word up to which a name counts as read: a vocabulary of other things spells it letter by letter."""
UNRELATED = 0.3
"""Share of names up to which as good a best image is no reason for doubt, chosen on Flickr8k (docs/search.md)."""
COMPARED, THIRD = 10, 3
"""Images that are compared of each name, the nearest by cosine; and the place of the one that hits are cut by."""


@dataclass(frozen=True, slots=True)
class Strength:
    """How a result list stands among those of unrelated names.

    Attributes:
        unrelated: share of the names whose best image stands out as much as the query's, in [0, 1].
        fits: for each hit, in order, whether it stands out as much as the third best image of `1 - UNRELATED` of the
            names. At least one is True.
        names: how many names were compared.
    """

    unrelated: float
    fits: tuple[bool, ...]
    names: int

    @property
    def is_weak(self) -> bool:
        """Whether nothing that was found fits."""
        return self.unrelated > UNRELATED


def reference_names() -> list[str]:
    """Names of things that have nothing to do with the query, nor with each other."""
    names = [one.names[0] for one in imagenet_classes()[::EVERY]]
    return [f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" for name in names]


def reference_vectors(model: Model) -> Vector | None:
    """Unit vectors float32 [r, e] of the names that the model can read, from the cache; None where it reads too few."""
    tokenizer = model.pipeline.codec.tokenizer
    names = [name for name in reference_names() if len(tokenizer.pieces(name)) <= MOST_PIECES * len(name.split())]
    if len(names) < FEWEST:
        return None
    cache = FeatureCache(cache_root(), f"names-{sha256_bytes(model.pipeline.query_fingerprint().encode())[:24]}")
    keys = [sha256_bytes(name.encode()) for name in names]
    missing = [place for place, key in enumerate(keys) if key not in cache.vectors]
    if missing:
        cache.add([keys[place] for place in missing], model.encode_text([names[place] for place in missing]))
    return np.stack([cache.vectors[key] for key in keys])


def standing_of_names(store: Store, names: Vector, where: Mapping[str, Value] | None = None) -> npt.NDArray[np.float64]:
    """How much the nearest images of each name stand out, float64 [r, k] in rising order; k is at most `COMPARED`.

    Args:
        store: where is searched.
        names: as `reference_vectors` returns them.
        where: the filter of the search.
    """
    theirs = store.nearest(names, COMPARED, where)
    among = _among(store, names, {number for hits in theirs for number, _ in hits})
    found = np.array([[_standing(cosine, among[number]) for number, cosine in hits] for hits in theirs])
    found.sort(axis=1)
    return found


def strength(
    store: Store, names: Vector, of_names: npt.NDArray[np.float64], query: Vector, found: Sequence[tuple[int, float]]
) -> Strength:
    """Judge a result list.

    Args:
        store: where was searched.
        names: as `reference_vectors` returns them.
        of_names: as `standing_of_names` returns it, of the same store and filter.
        query: the words' unit vector, float32 [e].
        found: number and cosine of the images that were found, best first; not empty.
    """
    among = _among(store, names, {number for number, _ in found})
    own = np.array([_standing(cosine, among[number]) for number, cosine in found])
    limit = np.quantile(of_names[:, -min(THIRD, of_names.shape[1])], 1 - UNRELATED)
    fits = own >= limit
    fits[int(own.argmax())] = True
    return Strength(float((of_names[:, -1] >= own.max()).mean()), tuple(map(bool, fits)), len(names))


def _among(store: Store, names: Vector, numbers: set[int]) -> dict[int, npt.NDArray[np.float64]]:
    """Number of an image -> its cosines with the names, float64 [r]."""
    vectors = store.vectors(sorted(numbers))
    return {number: names.astype(np.float64) @ vector.astype(np.float64) for number, vector in vectors.items()}


def _standing(cosine: float, among: npt.NDArray[np.float64]) -> float:
    """A cosine of an image in units of its cosines with the names, [r]."""
    return (cosine - float(among.mean())) / (float(among.std()) + 1e-9)
