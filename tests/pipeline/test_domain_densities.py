"""Distances against dense linear algebra and sums by hand; limits against what they promise."""

import math

import numpy as np
import pytest

from chiasm.pipeline.domain_densities import OPEN_VOCABULARY, FeatureGaussian, WordModel, upper_limit, words_of


def features(count: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(dim, dim)) * np.geomspace(1, 0.05, dim)[:, None]
    return rng.normal(size=(count, dim)) @ mixing + 3


@pytest.mark.parametrize(("count", "dim"), [(400, 12), (40, 12), (60, 200)])
def test_distance_is_mahalanobis_of_the_stated_covariance(count: int, dim: int) -> None:
    """Guards against a wrong residual, a wrong scale, and the branch for fewer examples than numbers."""
    rows, others = features(count, dim, 0), features(30, dim, 1)
    fitted = FeatureGaussian.fit(rows)
    scaled = (rows - rows.mean(0)) / rows.std(0)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / count)
    k = min(64, dim, count // 4)
    values, vectors = values[::-1], vectors[:, ::-1]
    covariance = vectors[:, :k] @ np.diag(values[:k]) @ vectors[:, :k].T
    if k < dim:
        covariance += values[k:].mean() * (np.eye(dim) - vectors[:, :k] @ vectors[:, :k].T)
    centred = (others - rows.mean(0)) / rows.std(0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred))
    np.testing.assert_allclose(fitted.distances(others), expected, rtol=1e-3)


def test_a_row_has_one_distance_whoever_stands_beside_it() -> None:
    """Guards against an abstention that depends on the batch."""
    fitted, others = FeatureGaussian.fit(features(300, 40, 0)), features(9, 40, 1)
    together = fitted.distances(others)
    assert [fitted.distances(others[n : n + 1])[0] for n in range(9)] == together.tolist()


def test_a_constant_feature_still_counts() -> None:
    """Guards against a division by zero, and strangers that light up what training never did."""
    rows = features(200, 10, 0)
    rows[:, 3] = 2.5
    fitted = FeatureGaussian.fit(rows)
    stranger = rows[:1].copy()
    stranger[0, 3] = 3.5
    assert fitted.distances(stranger)[0] > 10 * fitted.distances(rows[:1])[0]


@pytest.mark.parametrize("count", [99, 500])
def test_a_further_value_passes_the_limit_as_rarely_as_stated(count: int) -> None:
    """Guards against a limit that is off by one rank: over many draws 1 % of further values may pass, no more."""
    rng = np.random.default_rng(count)
    share = np.mean(
        [(rng.lognormal(size=400) > upper_limit(rng.lognormal(size=count), 0.01)).mean() for _ in range(400)]
    )
    assert 0.5 / (count + 1) < share < 0.0115


def test_few_values_get_a_limit_beyond_all_of_them() -> None:
    """Guards against a run on 80 images that refuses a tenth of its own kind."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        few = rng.lognormal(0, 0.2, size=12)
        limit = upper_limit(few, 0.01)
        assert limit >= few.max()
        shares.append((rng.lognormal(0, 0.2, size=300) > limit).mean())
    assert np.mean(shares) < 0.03


def test_cross_entropy_by_hand() -> None:
    """Witten and Bell 1991 worked out for two texts: guards against a lost border and a wrong share of the fallback."""
    model = WordModel.fit(["a b", "a c", "a b"])
    # words: border 3, a 3, b 2, c 1; pairs: (border, a) 3, (a, b) 2, (a, c) 1, (b, border) 2, (c, border) 1
    total, kinds = 9, 4

    def single(count: int) -> float:
        return (count + kinds / OPEN_VOCABULARY) / (total + kinds)

    seen = (3 + single(3)) / 4, (1 + 2 * single(1)) / 5, (1 + single(3)) / 2
    assert model.distances(["A  c"])[0] == pytest.approx(-sum(map(math.log, seen)) / 3)
    strange = (single(0)) / 4, single(3)  # nothing is known of what follows an unknown word
    assert model.distances(["z"])[0] == pytest.approx(-sum(map(math.log, strange)) / 2)


def test_probabilities_sum_to_one() -> None:
    """Guards against a cross-entropy that is none: after a word, all that may follow it share 1."""
    model = WordModel.fit(["is there a dog ?", "is there a cat ?", "有狗吗？"])

    def probability(first: str, second: str) -> float:
        """From a text of both words and one of the first alone, whose ends differ in a known way."""
        both, after = model.distances([f"{first} {second}"])[0] * 3, model.distances([second])[0] * 2
        start_first, start_second = model.distances([first])[0] * 2, after
        return float(np.exp(-(both - (start_first - end(first)) - (start_second - start(second)))))

    def start(word: str) -> float:
        return -math.log(follows(model, "", word))

    def end(word: str) -> float:
        return -math.log(follows(model, word, ""))

    known = [word for word in model.words if word]
    for first in ("there", "a", "dog"):
        total = sum(probability(first, second) for second in known) + follows(model, first, "")
        unknown = OPEN_VOCABULARY - len(model.words)
        assert total + unknown * probability(first, "zebra") == pytest.approx(1, abs=1e-6)


def follows(model: WordModel, first: str, second: str) -> float:
    """Witten and Bell's probability, from the counts, written anew."""
    place = {word: number for number, word in enumerate(model.words)}
    total, kinds = float(model.counts.sum()), len(model.words)
    single = (float(model.counts[place[second]]) if second in place else 0.0) + kinds / OPEN_VOCABULARY
    rows = [row for row in model.pairs.tolist() if row[0] == place.get(first, -1)]
    seen = sum(count for _, next_, count in rows if next_ == place.get(second, -1))
    if not rows:
        return single / (total + kinds)
    return (seen + len(rows) * single / (total + kinds)) / (sum(row[2] for row in rows) + len(rows))


def test_words_of_every_script() -> None:
    """Guards against sentences of scripts without spaces that are one unknown word each."""
    assert words_of("Is Ｔhere a DOG's bone?") == ["is", "there", "a", "dog", "'", "s", "bone", "?"]
    assert words_of("有3只狗吗？") == ["有", "3", "只", "狗", "吗", "?"]
    assert words_of("犬がいます") == list("犬がいます")
    assert words_of("Fluß на снегу") == ["fluss", "на", "снегу"]


def test_unknown_words_are_named_once() -> None:
    """Guards against signs told as unknown words, and known ones in capitals."""
    model = WordModel.fit(["what color is the circle?"])
    assert model.unknown("What is the MEANING, the meaning of life!") == ("meaning", "of", "life")


def test_both_come_back_from_their_arrays() -> None:
    """Guards against a file that forgets the limit, an accent or the border."""
    model = WordModel.fit(["un été à la plage", "雪地里的狗"])
    again = WordModel.from_arrays(model.arrays())
    texts = ["un chien", "雪地", ""]
    assert again.words == model.words and again.distances(texts).tolist() == model.distances(texts).tolist()
    gaussian = FeatureGaussian.fit(features(100, 20, 0))
    others = features(5, 20, 1)
    assert (
        FeatureGaussian.from_arrays(gaussian.arrays()).distances(others).tolist() == gaussian.distances(others).tolist()
    )
