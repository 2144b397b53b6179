"""Caption scores against the published definitions, by hand and by slow loops: they need no other package."""

import math
import random

import numpy as np
import pytest

from chiasm.metrics.captions import bleu, cider_d

WORDS = ["a", "dog", "cat", "runs", "on", "the", "green", "grass"]


def corpus(seed: int, pictures: int = 12) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Captions of 2 to 9 words that repeat themselves, with one to four references of other lengths."""
    rng = random.Random(seed)

    def caption() -> list[str]:
        return [rng.choice(WORDS[: rng.choice([3, 8])]) for _ in range(rng.randint(2, 9))]

    references = [[caption() for _ in range(rng.randint(1, 4))] for _ in range(pictures)]
    return [rng.choice(texts)[:-1] or ["a"] if rng.random() < 0.5 else caption() for texts in references], references


def ngrams(tokens: list[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[at : at + order]) for at in range(len(tokens) - order + 1)]


def slow_bleu(candidates: list[list[str]], references: list[list[list[str]]], order: int) -> float:
    """Papineni et al. 2002, sections 2.1 to 2.3: each word counts as often as one reference has it at most."""
    logs = 0.0
    for n in range(1, order + 1):
        matched = offered = 0
        for candidate, texts in zip(candidates, references, strict=True):
            own = ngrams(candidate, n)
            offered += len(own)
            for one in set(own):
                matched += min(own.count(one), max(ngrams(text, n).count(one) for text in texts))
        logs += math.log(matched / offered) / order
    length = sum(len(candidate) for candidate in candidates)
    closest = 0
    for candidate, texts in zip(candidates, references, strict=True):
        distances = sorted((abs(len(text) - len(candidate)), len(text)) for text in texts)
        closest += distances[0][1]
    return math.exp(logs) * (1.0 if length > closest else math.exp(1 - closest / length))


def slow_cider_d(candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """Vedantam et al. 2015, equations 1 to 3 and the changes of CIDEr-D, over one list of all n-grams."""
    scores = np.zeros(len(candidates))
    for n in range(1, 5):
        known = sorted({one for texts in references for text in [*texts] for one in ngrams(text, n)})
        known += sorted({one for text in candidates for one in ngrams(text, n)} - set(known))
        pictures_with = [sum(any(one in ngrams(text, n) for text in texts) for texts in references) for one in known]
        weight = [math.log(len(references) / max(1, count)) for count in pictures_with]

        def vector(text: list[str], n: int = n, known: list = known, weight: list = weight) -> np.ndarray:
            own = ngrams(text, n)
            return np.array([own.count(one) * rare for one, rare in zip(known, weight, strict=True)])

        for row, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
            for text in texts:
                mine, theirs = vector(candidate), vector(text)
                lengths = np.linalg.norm(mine) * np.linalg.norm(theirs)
                if lengths > 0:
                    penalty = math.exp(-((len(candidate) - len(text)) ** 2) / (2 * 6.0**2))
                    scores[row] += 10 / 4 / len(texts) * penalty * (np.minimum(mine, theirs) @ theirs) / lengths
    return list(scores)


def test_repeated_words_count_once_in_each_reference() -> None:
    """Papineni's example: "the" stands twice in one reference and once in the other, so 2 of 7, never 3."""
    candidate = ["the"] * 7
    references = [["the", "cat", "is", "on", "the", "mat"], ["there", "is", "a", "cat", "on", "the", "mat"]]
    assert bleu([candidate], [references])[0] == pytest.approx(2 / 7)


def test_brevity_is_measured_by_the_closest_reference() -> None:
    """Five words beside references of two and of six: six is closer; a tie takes the shorter."""
    candidate = ["a", "dog", "runs", "on", "grass"]
    short, long = ["a", "dog"], ["a", "dog", "runs", "on", "grass", "now"]
    assert bleu([candidate], [[short, long]])[0] == pytest.approx(math.exp(1 - 6 / 5))
    assert bleu([candidate], [[candidate[:4], long]])[0] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_slow_loops(seed: int) -> None:
    """Guards clipping, document frequencies, the length penalty, sigma, and the mean over orders and references."""
    candidates, references = corpus(seed)
    assert cider_d(candidates, references) == pytest.approx(slow_cider_d(candidates, references), abs=1e-9)
    for order in (1, 2):
        assert bleu(candidates, references)[order - 1] == pytest.approx(
            slow_bleu(candidates, references, order), rel=1e-6
        )
