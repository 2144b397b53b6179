"""Detection of weak matches: whether the results of a text query match better than those of unrelated words.

Cosines are not calibrated: they depend on the model, the query and the collection. Therefore 200 names of unrelated
things, most of them in none of the images, are searched in the same images. The cosine of an image with the query is
standardised by the image's cosines with the names (mean 0, standard deviation 1), which also corrects for images that
are near every text. The match is weak if the best standardised cosine is no larger than that of many names.

Measured by `python benchmarks/weak_matches.py`, see docs/search.md. English only, and only for text queries.

Axis legend: r names, e width of a vector.
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
"""Every fifth of ImageNet's 1,000 classes is a reference name."""
FEWEST = 100
"""Minimum number of names in the model's vocabulary; with fewer, no strength is computed."""
MOST_PIECES = 2.0
"""Maximum tokens per word of a name; a vocabulary without the word splits it into letters."""
UNRELATED = 0.3
"""A match is weak where a larger share of names has as good a best image; chosen on Flickr8k (docs/search.md)."""
COMPARED, THIRD = 10, 3
"""Number of nearest images compared for each name, and the rank of the image that sets the limit for hits."""


@dataclass(frozen=True, slots=True)
class Strength:
    """A result list compared with those of unrelated names.

    Attributes:
        unrelated: share of names, in [0, 1], whose best standardised cosine is at least the query's.
        fits: for each hit, in order, whether its standardised cosine is at least that of the third best image of
            `1 - UNRELATED` of the names. At least one is True.
        names: number of names compared.
    """

    unrelated: float
    fits: tuple[bool, ...]
    names: int

    @property
    def is_weak(self) -> bool:
        """Whether no hit is a good match."""
        return self.unrelated > UNRELATED


def reference_names() -> list[str]:
    """Names of unrelated things, each with its article."""
    names = [entry.names[0] for entry in imagenet_classes()[::EVERY]]
    return [f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" for name in names]


def reference_vectors(model: Model) -> Vector | None:
    """Unit vectors float32 [r, e] of the names in the model's vocabulary, cached; None where there are too few."""
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
    """Standardised cosines of each name's nearest images, float64 [r, k], ascending; k is at most `COMPARED`.

    Args:
        store: the index.
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
    """Compare a result list with those of the names.

    Args:
        store: the index.
        names: as `reference_vectors` returns them.
        of_names: as `standing_of_names` returns it, for the same store and filter.
        query: unit vector of the text, float32 [e].
        found: number and cosine of each hit, best first; not empty.
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
    """An image's cosine, standardised by its cosines with the names, [r]."""
    return (cosine - float(among.mean())) / (float(among.std()) + 1e-9)
