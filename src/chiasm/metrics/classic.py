"""Metrics as pure functions of arrays: what was predicted and what is true in, a `Score` out.

Ties are counted against the model everywhere: a model that gives all candidates one score finds nothing.
Numbers that are not finite are refused, because every comparison with NaN is false and would read as a hit.

Axis legend: n images or questions, m texts, e numbers an embedding, c classes.
"""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Score, normalise_answer
from chiasm.metrics.intervals import CONFIDENCE, RESAMPLES, finite_matrix, proportion, wilson

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

UNIFORMITY_ROWS = 10_000
"""Most rows whose pairs `uniformity` looks at: 50 million pairs."""
_TIE = 1e-12
"""Similarities closer than this, relative to the largest, are equal: float64 sums differ so much by order alone."""


def retrieval_ranks(
    image_embeddings: npt.NDArray[np.floating],
    text_embeddings: npt.NDArray[np.floating],
    image_group: npt.ArrayLike,
    text_group: npt.ArrayLike,
    chunk_rows: int = 512,
) -> tuple[IntArray, IntArray]:
    """Rank of the best right candidate for every image among all texts, and for every text among all images.

    A text is right for an image where their groups are equal. The rank is the number of wrong candidates that
    score at least as much as the best right one: 0 is a hit at 1, and a tie with a wrong candidate is a miss.
    Similarity is the dot product in float64, so that the ranks do not depend on `chunk_rows` or the machine;
    normalise rows first for cosine similarity.

    Args:
        image_embeddings: float [n, e].
        text_embeddings: float [m, e].
        image_group: int [n].
        text_group: int [m].
        chunk_rows: queries compared at once; memory is about `20 * chunk_rows * max(n, m)` bytes.

    Returns:
        `(image_to_text_ranks, text_to_image_ranks)`, int64 [n] and [m].

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, or a query without a right candidate.
    """
    images = _embeddings(image_embeddings, "image_embeddings")
    texts = _embeddings(text_embeddings, "text_embeddings")
    if images.shape[1] != texts.shape[1] or chunk_rows < 1:
        raise InputError(
            f"images of width {images.shape[1]}, texts of width {texts.shape[1]}, chunk_rows {chunk_rows}",
            "one shared width, and chunk_rows of at least 1",
            "embed both with one model",
        )
    image_of, text_of = _groups(image_group, len(images), "image"), _groups(text_group, len(texts), "text")
    return (
        _best_ranks(images, texts, image_of, text_of, chunk_rows, "image"),
        _best_ranks(texts, images, text_of, image_of, chunk_rows, "text"),
    )


def recall_at(ranks: npt.ArrayLike, k: int, clusters: npt.ArrayLike | None = None, seed: int = 0) -> Score:
    """Share of queries whose best right candidate is among the first k (R@k, k of at least 1).

    Args:
        ranks: int [n] from `retrieval_ranks`.
        k: candidates looked at.
        clusters: int [n], such as the image each text belongs to: the interval then draws images.
        seed: decides the resamples.
    """
    return proportion(np.asarray(ranks) < _checked_k(k), clusters, seed)


def exact_matches(answers: Sequence[str], acceptable: Sequence[Collection[str]]) -> BoolArray:
    """Return which answers equal one of their question's acceptable answers after `normalise_answer`: bool [n].

    This is not the VQAv2 score, which weighs ten people's answers; it is for data where every acceptable answer
    is fully right.
    """
    if len(answers) != len(acceptable) or any(isinstance(known, str) for known in acceptable):
        raise InputError(
            f"{len(answers)} answers, {len(acceptable)} sets of acceptable answers",
            "one collection of texts an answer (not a bare text)",
            "pass Question.answers for each question",
        )
    pairs = zip(answers, acceptable, strict=True)
    hits = [normalise_answer(answer) in {normalise_answer(text) for text in known} for answer, known in pairs]
    return np.array(hits, dtype=np.bool_)


def accuracy(is_right: npt.ArrayLike, clusters: npt.ArrayLike | None = None, seed: int = 0) -> Score:
    """Share of right answers; give `clusters` (int [n], the image of each question) wherever images repeat."""
    return proportion(is_right, clusters, seed)


def accuracy_by_kind(
    is_right: npt.ArrayLike, kinds: Sequence[str], clusters: npt.ArrayLike | None = None, seed: int = 0
) -> dict[str, Score]:
    """Accuracy of each kind of question, in order of first appearance; the counts add up to n."""
    right, names = np.asarray(is_right), np.asarray(kinds, dtype=object)
    images = None if clusters is None else np.asarray(clusters)
    if right.shape != names.shape:
        raise InputError(f"{right.shape} outcomes, {names.shape} kinds", "one kind an outcome", "pass both")
    scores = {}
    for kind in dict.fromkeys(kinds):
        chosen = names == kind
        scores[kind] = proportion(right[chosen], None if images is None else images[chosen], seed)
    return scores


def top_k_accuracy(
    scores: npt.NDArray[np.floating],
    labels: npt.ArrayLike,
    k: int,
    clusters: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Score:
    """Share of rows whose true class is among the k best (acc1, acc5); ties count against the model.

    Args:
        scores: float [n, c], larger is better; logits and probabilities give the same result.
        labels: int [n] in [0, c).
        k: classes looked at, at least 1.
        clusters: int [n], equal where rows show the same thing.
        seed: decides the resamples.
    """
    values = _embeddings(scores, "scores")
    true = _labels(labels, values.shape[0], values.shape[1])
    of_true = values[np.arange(len(values)), true][:, None]
    ranks = (values >= of_true).sum(1) - 1
    return proportion(ranks < _checked_k(k), clusters, seed)


def mean_per_class_recall(predicted: npt.ArrayLike, labels: npt.ArrayLike, seed: int = 0) -> Score:
    """Mean over the classes that occur of the share of each class's rows that were found (balanced accuracy).

    The interval draws rows within each class; where every class has recall 0 or 1 that has no width, and
    Wilson's over all rows takes its place.

    Args:
        predicted: int [n].
        labels: int [n].
        seed: decides the resamples.
    """
    guessed, true = np.asarray(predicted), np.asarray(labels)
    if guessed.shape != true.shape or true.ndim != 1 or len(true) == 0:
        raise InputError(f"{guessed.shape} predictions, {true.shape} labels", "two equal non-empty rows", "pass both")
    _, index = np.unique(true, return_inverse=True)
    counts = np.bincount(index)
    recalls = np.bincount(index, weights=guessed == true) / counts
    value = float(recalls.mean())
    if np.isin(recalls, (0.0, 1.0)).all():
        return Score(value, *wilson(value * len(true), len(true)), len(true))
    # The number found in a bootstrap draw of a class's rows is exactly binomial.
    found = counter_rng("per class", seed).binomial(counts, recalls, size=(RESAMPLES, len(counts)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((found / counts).mean(1), (tail, 1 - tail))
    return Score(value, float(low), float(high), len(true))


def class_scores(
    logits: npt.NDArray[np.floating], labels: IntArray, seed: int = 0
) -> tuple[dict[str, Score], dict[str, float]]:
    """Scores of naming classes, and what the commonest class (or five) would get: acc1, acc5, mean_per_class_recall.

    Args:
        logits: float [n, c], larger is likelier.
        labels: the right classes, int [n] in [0, c).
        seed: decides the draws of the intervals.
    """
    scores = {
        "acc1": top_k_accuracy(logits, labels, 1, seed=seed),
        "acc5": top_k_accuracy(logits, labels, min(5, logits.shape[1]), seed=seed),
        "mean_per_class_recall": mean_per_class_recall(logits.argmax(1), labels, seed=seed),
    }
    counts = np.sort(np.bincount(labels))[::-1] / len(labels)
    commonest = {"acc1": float(counts[0]), "acc5": float(counts[:5].sum())}
    return scores, {**commonest, "mean_per_class_recall": 1 / len(np.unique(labels))}


def alignment(
    image: npt.NDArray[np.floating],
    text: npt.NDArray[np.floating],
    image_group: npt.ArrayLike,
    text_group: npt.ArrayLike,
) -> float:
    """Mean squared distance of images and texts that belong together (Wang and Isola 2020, equation 5, alpha 2).

    Rows are brought to length 1 first. 0 is perfect, 2 is what unrelated directions have, 4 is the most. A collapsed
    model is perfect too: read it together with `uniformity`.

    Args:
        image: float [n, e].
        text: float [m, e].
        image_group: int [n]; an image and a text of equal group are a pair.
        text_group: int [m].
    """
    images, texts = _unit_rows(image, "image"), _unit_rows(text, "text")
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"images of width {images.shape[1]}, texts of width {texts.shape[1]}", "one width", "embed with one model"
        )
    groups = np.concatenate([_groups(image_group, len(images), "image"), _groups(text_group, len(texts), "text")])
    names, index = np.unique(groups, return_inverse=True)
    # On the sphere |x - y|^2 = 2 - 2 x.y, and the products of a group's pairs add up to that of its sums.
    sums = np.zeros((2, len(names), images.shape[1]))
    np.add.at(sums[0], index[: len(images)], images)
    np.add.at(sums[1], index[len(images) :], texts)
    of_image, of_text = (np.bincount(part, minlength=len(names)) for part in np.split(index, [len(images)]))
    pairs = int((of_image * of_text).sum())
    if pairs == 0:
        raise InputError("no image and text of one group", "at least one pair", "check image_group and text_group")
    return max(0.0, 2 - 2 * float((sums[0] * sums[1]).sum()) / pairs)


def uniformity(x: npt.NDArray[np.floating], t: float = 2, seed: int = 0) -> float:
    """Log of the mean of exp(-t |x - y|^2) over pairs of different rows (Wang and Isola 2020, equation 6).

    Rows are brought to length 1 first. 0 is a collapsed model; lower is more evenly spread over the sphere, and an
    even spread over many dimensions comes near -2 t. The pairs are those of `UNIFORMITY_ROWS` drawn rows where there
    are more, since their number grows with the square.

    Args:
        x: float [n, e], n of at least 2.
        t: how near rows must be to count, above 0.
        seed: decides which rows are drawn.
    """
    rows = _unit_rows(x, "x")
    if len(rows) < 2 or t <= 0:
        raise InputError(f"{len(rows)} rows, t {t}", "at least two rows, t above 0", "embed more examples")
    if len(rows) > UNIFORMITY_ROWS:
        rows = rows[np.sort(counter_rng("uniformity", seed, len(rows)).permutation(len(rows))[:UNIFORMITY_ROWS])]
    total = 0.0
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        nearness = np.exp(-t * (2 - 2 * np.minimum(part @ rows.T, 1.0)))
        total += float(nearness.sum()) - float(nearness[np.arange(len(part)), start + np.arange(len(part))].sum())
    return float(np.log(total / (len(rows) * (len(rows) - 1))))


def modality_gap(image: npt.NDArray[np.floating], text: npt.NDArray[np.floating]) -> float:
    """Distance of the centre of the images from the centre of the texts, in [0, 2] (Liang et al. 2022, section 2).

    Rows are brought to length 1 first.

    Args:
        image: float [n, e].
        text: float [m, e].
    """
    return float(np.linalg.norm(_unit_rows(image, "image").mean(0) - _unit_rows(text, "text").mean(0)))


def _unit_rows(values: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.float64]:
    numbers = _embeddings(values, name)
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError(
            f"row {int(lengths[:, 0].argmin())} of {name} is zero", "rows with a direction", "check the model"
        )
    return numbers / lengths


def _best_ranks(
    queries: npt.NDArray[np.float64],
    candidates: npt.NDArray[np.float64],
    query_group: IntArray,
    candidate_group: IntArray,
    chunk_rows: int,
    what: str,
) -> IntArray:
    lonely = ~np.isin(query_group, candidate_group)
    if lonely.any():
        raise InputError(
            f"{int(lonely.sum())} queries have no right candidate, the first is {what} {int(lonely.argmax())}",
            "at least one candidate of the same group for every query",
            "leave out the images without a text and the texts without an image",
        )
    longest = np.linalg.norm(candidates, axis=1).max()
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk_rows):
        rows = slice(start, start + chunk_rows)
        similarity = queries[rows] @ candidates.T
        is_right = query_group[rows, None] == candidate_group[None, :]
        best = np.where(is_right, similarity, -np.inf).max(1)
        margin = _TIE * longest * np.linalg.norm(queries[rows], axis=1)
        ranks[rows] = ((similarity >= (best - margin)[:, None]) & ~is_right).sum(1)
    return ranks


def _embeddings(values: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.float64]:
    return finite_matrix(values, name, "check the model's outputs")


def _groups(values: npt.ArrayLike, rows: int, what: str) -> IntArray:
    groups = np.asarray(values)
    if groups.shape != (rows,) or not np.issubdtype(groups.dtype, np.integer):
        raise InputError(f"{what} groups {groups.dtype} {groups.shape}", f"integers ({rows},)", "one group a row")
    return groups.astype(np.int64)


def _labels(values: npt.ArrayLike, rows: int, classes: int) -> IntArray:
    labels = _groups(values, rows, "label")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels from {labels.min()} to {labels.max()}", f"0 to {classes - 1}", "use the model's own label list"
        )
    return labels


def _checked_k(k: int) -> int:
    if k < 1:
        raise InputError(f"k is {k}", "a whole number of at least 1", "1, 5 and 10 are usual")
    return k
