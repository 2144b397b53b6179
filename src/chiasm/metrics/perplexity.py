"""Perplexity of texts: how many tokens a language model hesitates between, on the geometric mean.

Perplexity is exp(-sum of log-likelihoods / number of tokens), over all texts together. The interval draws texts, since
the tokens of one text are easy or hard together. Perplexities compare only between models that cut the same texts into
the same tokens.

Axis legend: n texts.
"""

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.metrics.paired import corpus_interval


def perplexity(log_likelihood: npt.ArrayLike, tokens: npt.ArrayLike, seed: int = 0) -> Score:
    """Perplexity over all texts, with the interval of a bootstrap over texts.

    Args:
        log_likelihood: float [n], natural logarithms summed over the counted tokens of each text; at most 0.
        tokens: int [n], counted tokens of each text, at least 1.
        seed: decides the resamples.

    Returns:
        A score from 1 (every token certain) upward; its n is the number of texts.
    """
    sums, counts = _checked(log_likelihood, tokens)
    return _exponential(-sums, counts, seed)


def perplexity_ratio(first: npt.ArrayLike, second: npt.ArrayLike, tokens: npt.ArrayLike, seed: int = 0) -> Score:
    """Perplexity of the first model over that of the second on the same texts; below 1 the first is better.

    The interval is paired: each resample draws the same texts for both models.

    Args:
        first: float [n], summed log-likelihoods of the first model.
        second: the same of the second model, same texts in the same order.
        tokens: int [n], counted tokens of each text, the same for both.
        seed: decides the resamples.
    """
    one, counts = _checked(first, tokens)
    two, _ = _checked(second, tokens)
    return _exponential(two - one, counts, seed)


def _exponential(losses: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], seed: int) -> Score:
    """exp(sum of losses / sum of counts) with its interval."""

    def score(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.exp(sums[..., 0] / sums[..., 1])

    rows = np.stack([losses, counts], axis=1)
    low, high = corpus_interval(rows, score, None, seed)
    return Score(float(score(rows.sum(0))), float(low), float(high), len(rows))


def _checked(
    log_likelihood: npt.ArrayLike, tokens: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    sums, counts = np.asarray(log_likelihood, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if sums.ndim != 1 or sums.shape != counts.shape or not len(sums):
        given = f"log-likelihoods {sums.shape} and token counts {counts.shape}"
        raise InputError(given, "one of each for every text, at least one text", "pass two rows of equal length")
    if not np.isfinite(sums).all() or (sums > 0).any() or (counts < 1).any():
        given = f"log-likelihoods up to {sums.max():g}, token counts from {counts.min():g}"
        raise InputError(given, "finite log-likelihoods of at most 0, at least 1 token a text", "leave out empty texts")
    return sums, counts
