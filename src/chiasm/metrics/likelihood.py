"""Answers by likelihood: which of some candidates a language model finds likeliest, and with what probability.

A written "Yes." that is compared as a string fails for its full stop, and says nothing of how sure the model is. Here
the candidates are scored: by the sum of their tokens' log-likelihoods, which is their probability, or by the mean a
token, which does not favour short candidates (as in Brown et al. 2020, arXiv:2005.14165, section 2.4).

Axis legend: q questions, c candidates.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        best: int64 [q], the likeliest candidate; the first of equal ones.
        probability: float64 [q, c], a softmax over each question's candidates; 0 where there is none.
    """

    best: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]


def choose(
    log_likelihood: npt.ArrayLike, tokens: npt.ArrayLike | None = None, is_candidate: npt.ArrayLike | None = None
) -> Choice:
    """Choose among the candidate answers of each question.

    Args:
        log_likelihood: float [q, c], natural logarithms summed over each candidate's tokens; -inf is impossible.
        tokens: int [q, c] or [c], number of tokens of each candidate, at least 1; given, candidates are compared by
            the mean a token. None compares sums.
        is_candidate: bool [q, c], True where question i has a candidate j; None: everywhere.

    Raises:
        InputError: shapes that differ, NaN, a candidate without a token, or a question without a possible candidate.
    """
    scores = np.array(log_likelihood, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise InputError(f"log-likelihoods of shape {scores.shape}", "[questions, candidates]", "pass two axes")
    is_there = np.ones(scores.shape, dtype=bool) if is_candidate is None else np.asarray(is_candidate, dtype=bool)
    lengths = np.ones(scores.shape) if tokens is None else np.asarray(tokens, dtype=np.float64)
    if is_there.shape != scores.shape or lengths.shape not in (scores.shape, scores.shape[1:]):
        given = f"log-likelihoods {scores.shape}, tokens {lengths.shape}, is_candidate {is_there.shape}"
        raise InputError(given, "equal shapes, or tokens of one row", "pass one number a candidate")
    lengths = np.broadcast_to(lengths, scores.shape)
    if np.isnan(scores[is_there]).any() or (lengths[is_there] < 1).any():
        given = "a log-likelihood that is no number, or a candidate without a token"
        raise InputError(given, "numbers, and at least one token", "check the model's outputs, leave out empty answers")
    scores = np.where(is_there, scores, -np.inf) / np.where(is_there, lengths, 1)
    best = scores.max(axis=1, keepdims=True)
    if not np.isfinite(best).all():
        row = int(np.flatnonzero(~np.isfinite(best[:, 0]))[0])
        given = f"question {row} has no candidate with a finite log-likelihood"
        raise InputError(given, "at least one possible candidate", "add candidates, or leave the question out")
    weights = np.exp(scores - best)
    return Choice(scores.argmax(axis=1), weights / weights.sum(axis=1, keepdims=True))


def yes_or_no(log_yes: npt.ArrayLike, log_no: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Answer yes where log p(yes) > log p(no).

    Args:
        log_yes: float [q], log-likelihood of "yes".
        log_no: float [q], log-likelihood of "no".

    Returns:
        bool [q], True for yes (a tie is no), and float64 [q], the probability of yes among the two.
    """
    pair = np.stack([np.asarray(log_no, dtype=np.float64), np.asarray(log_yes, dtype=np.float64)], axis=-1)
    chosen = choose(pair)
    return chosen.best == 1, chosen.probability[:, 1]
