"""Metrics against slow loops and against what perfect, random and constant predictors must score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.metrics import classic
from chiasm.metrics.classic import (
    accuracy,
    accuracy_by_kind,
    alignment,
    exact_matches,
    mean_per_class_recall,
    modality_gap,
    recall_at,
    retrieval_ranks,
    top_k_accuracy,
    uniformity,
)
from chiasm.metrics.intervals import wilson


def _slow_ranks(queries: np.ndarray, candidates: np.ndarray, of: np.ndarray, to: np.ndarray) -> list[int]:
    """Sort the candidates of each query, wrong ones first among equals, and look where the first right one is."""
    ranks = []
    for query, group in zip(queries, of, strict=True):
        scored = sorted(
            (-float(np.dot(query, other)), bool(right == group)) for other, right in zip(candidates, to, strict=True)
        )
        ranks.append(next(place for place, (_, is_right) in enumerate(scored) if is_right))
    return ranks


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.integers(1, 40))
def test_ranks_equal_a_slow_sort(seed: int, pictures: int, captions: int, chunk_rows: int) -> None:
    """Small whole numbers make many ties; guards chunk borders, tie rule, and mixed up directions."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1, 2, size=(pictures, 3)).astype(np.float32)
    text = rng.integers(-1, 2, size=(pictures * captions, 3)).astype(np.float32)
    group = rng.integers(0, 3, size=pictures)
    text_group = rng.permutation(np.repeat(group, captions))
    to_text, to_image = retrieval_ranks(image, text, group, text_group, chunk_rows=chunk_rows)
    assert to_text.tolist() == _slow_ranks(image, text, group, text_group)
    assert to_image.tolist() == _slow_ranks(text, image, text_group, group)


def test_ranks_do_not_depend_on_chunks() -> None:
    """Guards against float32 sums that change with the shape of the product."""
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(rows, 96)).astype(np.float32) for rows in (301, 602))
    whole = retrieval_ranks(image, text, np.arange(301), np.arange(602) // 2, chunk_rows=1000)
    for chunk_rows in (1, 7, 300):
        parts = retrieval_ranks(image, text, np.arange(301), np.arange(602) // 2, chunk_rows=chunk_rows)
        assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


def test_constant_model_finds_nothing() -> None:
    """A collapsed encoder ties everything; `>` in place of `>=` would call that R@1 = 1."""
    vector = np.random.default_rng(3).normal(size=(1, 193)).astype(np.float32)
    ranks = retrieval_ranks(vector.repeat(211, 0), vector.repeat(211, 0), np.arange(211), np.arange(211), 50)
    for direction in ranks:
        assert (direction == 210).all()
        assert recall_at(direction, 10).value == 0


def test_perfect_model_finds_everything_and_best_caption_counts() -> None:
    """Five captions a picture, one of them perfect and four opposite: the best one decides for the picture."""
    image = np.eye(20, dtype=np.float32)
    text = np.repeat(image, 5, axis=0)
    text[np.arange(100) % 5 != 2] *= -1
    to_text, to_image = retrieval_ranks(image, text, np.arange(20), np.arange(100) // 5)
    assert recall_at(to_text, 1).value == 1
    assert recall_at(to_image, 1).value == pytest.approx(0.2)


def test_random_model_scores_as_theory_says() -> None:
    """R@10 among 1000 is 1 % in expectation: guards off-by-one in k and ranks that start at 1."""
    rng = np.random.default_rng(11)
    image, text = (rng.normal(size=(1000, 16)).astype(np.float32) for _ in range(2))
    to_text, to_image = retrieval_ranks(image, text, np.arange(1000), np.arange(1000))
    low, high = wilson(10, 1000, confidence=0.999)
    assert low <= recall_at(to_text, 10).value <= high
    assert low <= recall_at(to_image, 10).value <= high
    assert to_text.mean() == pytest.approx(499.5, abs=30)


def test_recall_counts_below_k() -> None:
    """Rank 0 is the first place."""
    assert [recall_at(np.array([0, 1, 4, 5, 10]), k).value for k in (1, 5, 10)] == pytest.approx([0.2, 0.6, 0.8])
    with pytest.raises(InputError):
        recall_at(np.array([0]), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_no_hit(bad: float) -> None:
    """Every comparison with NaN is false: without a check a broken model would have rank 0 everywhere."""
    image = np.full((4, 2), bad, dtype=np.float32)
    with pytest.raises(InputError, match="not finite"):
        retrieval_ranks(image, np.ones((4, 2), np.float32), np.arange(4), np.arange(4))
    with pytest.raises(InputError, match="not finite"):
        top_k_accuracy(image, np.zeros(4, int), 1)


def test_query_without_right_candidate_is_refused() -> None:
    """It would be a miss that no model can avoid."""
    with pytest.raises(InputError, match="image 1"):
        retrieval_ranks(np.eye(2), np.eye(2), np.array([0, 1]), np.array([0, 0]))


def test_exact_match_takes_any_acceptable_answer() -> None:
    """Case, width and spaces never matter; a bare text in place of a list would match single letters."""
    answers = ["Yes", "two ", "２", "ellow", "红色"]
    known = [("yes",), ("2", "Two"), ("2",), ("yellow",), ("红色", "红")]
    assert exact_matches(answers, known).tolist() == [True, True, True, False, True]
    with pytest.raises(InputError):
        exact_matches(["e"], ["yes"])


def test_by_kind_adds_up() -> None:
    """The weighted mean of the kinds is the whole: guards a mask that selects the wrong rows."""
    rng = np.random.default_rng(0)
    right, kinds = rng.random(300) < 0.4, [("count", "colour", "place")[i] for i in rng.integers(0, 3, 300)]
    parts = accuracy_by_kind(right, kinds, clusters=np.arange(300) // 3)
    whole = accuracy(right)
    assert sum(part.n for part in parts.values()) == whole.n
    assert sum(part.n * part.value for part in parts.values()) == pytest.approx(whole.n * whole.value)
    for kind, part in parts.items():
        assert part.value == pytest.approx(np.mean([r for r, k in zip(right, kinds, strict=True) if k == kind]))
        assert part.low <= part.value <= part.high


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_top_k_equals_a_slow_sort(seed: int, k: int) -> None:
    """Whole-number logits with ties, true class last among equals."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, size=(15, 6)).astype(float), rng.integers(0, 6, 15)
    hits = []
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(6), key=lambda c: (-row[c], c == label))
        hits.append(label in order[:k])
    assert top_k_accuracy(scores, labels, k).value == pytest.approx(np.mean(hits))


def test_top_k_of_constant_scores() -> None:
    """Untrained equal logits must not reach accuracy 1 through the order of the classes."""
    assert top_k_accuracy(np.zeros((9, 3)), np.zeros(9, int), 2).value == 0
    assert top_k_accuracy(np.zeros((9, 3)), np.zeros(9, int), 3).value == 1


def test_labels_outside_the_classes_are_refused() -> None:
    """-1 would silently read the last class."""
    with pytest.raises(InputError, match="labels from -1"):
        top_k_accuracy(np.zeros((2, 3)), np.array([-1, 0]), 1)


def test_mean_per_class_recall_ignores_imbalance() -> None:
    """Always answering the common class scores 1/2, not 0.9; a slow loop agrees on a mixed case."""
    labels = np.array([0] * 90 + [1] * 10)
    assert mean_per_class_recall(np.zeros(100, int), labels).value == pytest.approx(0.5)
    rng = np.random.default_rng(6)
    true = rng.integers(0, 5, 400) ** 2
    guess = np.where(rng.random(400) < 0.7, true, rng.integers(0, 17, 400))
    expected = np.mean([np.mean(guess[true == one] == one) for one in set(true.tolist())])
    score = mean_per_class_recall(guess, true)
    assert score.value == pytest.approx(expected)
    assert score.low < score.value < score.high
    spread = np.sqrt(
        np.mean([r * (1 - r) / np.sum(true == c) for c in set(true.tolist()) for r in [np.mean(guess[true == c] == c)]])
        / 5
    )
    assert (score.high - score.low) / 2 == pytest.approx(1.96 * spread, rel=0.12)


def test_perfect_classifier_keeps_width() -> None:
    """All right on 30 rows is not certainty."""
    score = mean_per_class_recall(np.arange(30) % 3, np.arange(30) % 3)
    assert score.value == 1
    assert (score.low, score.high) == pytest.approx(wilson(30, 30))


def _sphere(seed: int, rows: int, width: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(rows, width))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_alignment_equals_a_slow_loop() -> None:
    """Groups of unequal size on both sides, some without a partner: guards weights by group in place of by pair."""
    image, text = _sphere(0, 14, 5), _sphere(1, 33, 5)
    rng = np.random.default_rng(2)
    of_image, of_text = rng.integers(0, 6, 14), rng.integers(-2, 5, 33)
    pairs = [(x, y) for x, g in zip(image, of_image, strict=True) for y, h in zip(text, of_text, strict=True) if g == h]
    expected = np.mean([np.sum((x - y) ** 2) for x, y in pairs])
    assert alignment(image, text, of_image, of_text) == pytest.approx(expected)
    assert alignment(image * 3, text * 0.1, of_image, of_text) == pytest.approx(expected)
    assert alignment(image, image, np.arange(14), np.arange(14)) == pytest.approx(0, abs=1e-12)
    assert alignment(image, -image, np.arange(14), np.arange(14)) == pytest.approx(4)
    with pytest.raises(InputError):
        alignment(image, text, np.zeros(14, int), np.ones(33, int))
    with pytest.raises(InputError):
        alignment(image, _sphere(1, 33, 4), of_image, of_text)


@pytest.mark.parametrize("rows", [2, 37, 700])
def test_uniformity_equals_a_slow_loop(rows: int) -> None:
    """Also across the blocks of 512 rows: guards a row compared with itself, which is always near."""
    x = _sphere(rows, rows, 6)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)[np.triu_indices(rows, 1)]
    assert uniformity(x) == pytest.approx(np.log(np.exp(-2 * squared).mean()))
    assert uniformity(x * 7, t=0.5) == pytest.approx(np.log(np.exp(-0.5 * squared).mean()))


def test_uniformity_of_collapsed_and_of_spread_rows() -> None:
    """Collapse is 0, two opposite rows -4 t, and many directions in many dimensions near -2 t."""
    assert uniformity(np.ones((30, 4))) == pytest.approx(0, abs=1e-9)
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(_sphere(0, 400, 512)) == pytest.approx(-4, abs=0.1)
    for rows, t in ((1, 2.0), (5, 0.0)):
        with pytest.raises(InputError):
            uniformity(_sphere(0, rows, 3), t)


def test_uniformity_of_many_rows_looks_at_drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against time that grows with the square of the rows, and a draw that favours the first of them."""
    x = np.concatenate([np.tile([1.0, 0, 0], (300, 1)), _sphere(0, 900, 3)])
    exact = uniformity(x)
    monkeypatch.setattr(classic, "UNIFORMITY_ROWS", 400)
    drawn = [uniformity(x, seed=seed) for seed in range(5)]
    assert drawn[0] == uniformity(x, seed=0) and len(set(drawn)) == 5
    assert np.mean(drawn) == pytest.approx(exact, abs=0.05)
    assert uniformity(x[:400]) == pytest.approx(0, abs=0.9) and uniformity(x[:400], seed=1) == uniformity(x[:400])


def test_modality_gap_is_the_distance_of_the_centres() -> None:
    """A shift of all texts shows, their number and their length do not."""
    image = _sphere(4, 50, 8)
    assert modality_gap(image, np.repeat(image, 5, axis=0) * 9) == pytest.approx(0, abs=1e-12)
    assert modality_gap(np.tile([1.0, 0], (6, 1)), np.tile([0, 2.0], (9, 1))) == pytest.approx(np.sqrt(2))
    with pytest.raises(InputError, match="row 1"):
        modality_gap(image, np.array([[1.0] * 8, [0.0] * 8]))
