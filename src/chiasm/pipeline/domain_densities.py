"""Two densities of training data and the limits beyond which an input counts as unlike it.

Images: a Gaussian over pooled features, whose distance is Mahalanobis' (Lee et al. 2018). Texts: the cross-entropy of a
bigram model of words (Arora et al. 2021 find such a density the better detector of a topic shift; pooled
text features of a pre-trained tower do not separate reports or scenes from captions of photos, docs/log.md).

Axis legend: n examples, d numbers of a feature, k principal directions, w words, b pairs of words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]

MOST_DIRECTIONS = 64
EXAMPLES_A_DIRECTION = 4
"""Training images that each principal direction needs."""
SMALLEST_SCALE = 1e-3
"""Least spread of a feature, as a share of the median one: a feature that is constant in training still counts."""
MOST_WORDS = 50_000
MOST_PAIRS = 32_768
OPEN_VOCABULARY = 100_000
"""Words among which the probability of an unknown word is divided."""
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no space between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_WORDS = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")
_BORDER = ""
"""Stands before the first word and after the last."""


def words_of(text: str) -> list[str]:
    """Words in lower case and signs, each; of scripts without spaces, characters."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def upper_limit(values: npt.ArrayLike, share: float) -> float:
    """Limit that a further value of the same kind passes with a probability of at most about `share`.

    Of 1 / share values or more, the order statistic of split conformal prediction (Vovk et al. 2005). Of fewer, none is
    rare enough: the largest, or the normal prediction limit of their logarithms, whichever is more.

    Args:
        values: distances above 0, [n], n at least 2.
        share: in (0, 1).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    rank = int(np.ceil((len(ordered) + 1) * (1 - share)))
    if rank <= len(ordered):
        return float(ordered[rank - 1])
    logs = np.log(np.maximum(ordered, 1e-12))
    spread = float(logs.std(ddof=1)) * (1 + 1 / len(logs)) ** 0.5
    return max(float(ordered[-1]), float(np.exp(logs.mean() + NormalDist().inv_cdf(1 - share) * spread)))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureGaussian:
    """A Gaussian whose covariance is exact in k principal directions and equal in all others (Tipping and Bishop 1999).

    Args:
        mean: float32 [d].
        scale: float32 [d], standard deviations, by which features are divided.
        directions: float32 [k, d], orthonormal rows.
        variances: float32 [k] along them.
        rest: variance in each other direction; 0 where there is none.
        limit: distance that counts as 1.
    """

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    variances: npt.NDArray[np.float32]
    rest: float
    limit: float = 1.0

    @classmethod
    def fit(cls, features: npt.ArrayLike) -> "FeatureGaussian":
        """Fit to training features [n, d], n at least 2."""
        rows = np.asarray(features, dtype=np.float64)
        count, dim = rows.shape
        mean, scale = rows.mean(0), rows.std(0)
        scale = np.maximum(scale, SMALLEST_SCALE * max(float(np.median(scale)), 1e-6))
        rows = (rows - mean) / scale
        k = max(1, min(MOST_DIRECTIONS, dim, count // EXAMPLES_A_DIRECTION))
        values, vectors = np.linalg.eigh(rows @ rows.T if count < dim else rows.T @ rows)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        if count < dim:
            vectors = rows.T @ vectors[:, :k] / np.sqrt(np.maximum(values[:k], 1e-12))
        variances = values / count
        rest = float(variances[k:].sum() / (dim - k)) if dim > k else 0.0
        return cls(
            mean.astype(np.float32),
            scale.astype(np.float32),
            np.ascontiguousarray(vectors[:, :k].T).astype(np.float32),
            np.maximum(variances[:k], max(rest, 1e-6)).astype(np.float32),
            rest,
        )

    def distances(self, features: npt.ArrayLike) -> FloatArray:
        """Features [n, d] -> Mahalanobis distance over the limit, float64 [n]; the same in every batch."""
        rows = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        directions = self.directions.astype(np.float64)
        found = np.zeros(len(rows))
        for number, row in enumerate(rows):  # one by one, so that no neighbour changes how a row is rounded
            along = directions @ row
            squared = float((along**2 / self.variances).sum())
            if self.rest > 0:
                squared += max(0.0, float(row @ row - along @ along)) / self.rest
            found[number] = squared**0.5 / self.limit
        return found

    def arrays(self) -> Arrays:
        """For a file."""
        numbers = np.array([self.rest, self.limit])
        shape = {"directions": self.directions, "variances": self.variances}
        return {"mean": self.mean, "scale": self.scale, **shape, "numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "FeatureGaussian":
        """Rebuild from `arrays`."""
        rest, limit = (float(value) for value in arrays["numbers"])
        return cls(arrays["mean"], arrays["scale"], arrays["directions"], arrays["variances"], rest, limit)


@dataclass(frozen=True, slots=True, eq=False)
class WordModel:
    """Bigrams of words that fall back on single words, and these on any word (Witten and Bell 1991).

    Args:
        words: the w words of training, the most frequent first; "" stands for a text's border.
        counts: uint32 [w], count of each in training.
        pairs: uint32 [b, 3]: place of a word, place of the word after it, how often.
        limit: cross-entropy in nats a word that counts as 1.
    """

    words: tuple[str, ...]
    counts: npt.NDArray[np.uint32]
    pairs: npt.NDArray[np.uint32]
    limit: float = 1.0
    _place: dict[str, int] = field(init=False, repr=False)
    _after: dict[int, dict[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        after: dict[int, dict[int, int]] = {}
        for first, second, count in self.pairs.tolist():
            after.setdefault(first, {})[second] = count
        object.__setattr__(self, "_place", {word: number for number, word in enumerate(self.words)})
        object.__setattr__(self, "_after", after)

    @classmethod
    def fit(cls, texts: Iterable[str]) -> "WordModel":
        """Count the words and pairs of training texts; ties go by the alphabet, so that one set gives one model."""
        single: Counter[str] = Counter()
        double: Counter[tuple[str, str]] = Counter()
        for text, times in Counter(texts).items():
            line = [*words_of(text), _BORDER]
            for first, second in zip([_BORDER, *line[:-1]], line, strict=True):
                single[second] += times
                double[first, second] += times
        words = sorted(single, key=lambda word: (-single[word], word))[:MOST_WORDS]
        place = {word: number for number, word in enumerate(words)}
        known = [pair for pair in double if pair[0] in place and pair[1] in place]
        kept = sorted(known, key=lambda pair: (-double[pair], pair))[:MOST_PAIRS]
        rows = [(place[first], place[second], double[first, second]) for first, second in kept]
        return cls(
            tuple(words),
            np.array([single[word] for word in words], dtype=np.uint32),
            np.array(rows, dtype=np.uint32).reshape(-1, 3),
        )

    def distances(self, texts: Sequence[str]) -> FloatArray:
        """Cross-entropy of each text over the limit, float64 [n]."""
        total, kinds = float(self.counts.sum()), len(self.words)
        return np.array([self._cross_entropy(words_of(text), total, kinds) for text in texts]) / self.limit

    def _cross_entropy(self, words: Sequence[str], total: float, kinds: int) -> float:
        surprise = 0.0
        for first, second in zip([_BORDER, *words], [*words, _BORDER], strict=True):
            place = self._place.get(second, -1)
            count = float(self.counts[place]) if place >= 0 else 0.0
            probability = (count + kinds / OPEN_VOCABULARY) / (total + kinds)
            after = self._after.get(self._place.get(first, -1), {})
            if after:
                probability = (after.get(place, 0) + len(after) * probability) / (sum(after.values()) + len(after))
            surprise -= float(np.log(probability))
        return surprise / (len(words) + 1)

    def unknown(self, text: str) -> tuple[str, ...]:
        """Words of a text that training did not use, each once; signs do not count."""
        found = dict.fromkeys(word for word in words_of(text) if word not in self._place and word[0].isalnum())
        return tuple(found)

    def arrays(self) -> Arrays:
        """For a file; no word holds a line break."""
        spelled = np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8)
        return {"words": spelled, "counts": self.counts, "pairs": self.pairs, "numbers": np.array([self.limit])}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "WordModel":
        """Rebuild from `arrays`."""
        words = tuple(arrays["words"].tobytes().decode().split("\n"))
        return cls(words, arrays["counts"], arrays["pairs"], float(arrays["numbers"][0]))
