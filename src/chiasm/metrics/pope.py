"""POPE: does a model say that objects are in an image that are not (Li et al. 2023, arXiv:2305.10355)?

Half of the questions ask for an object that the image has, half for one that it has not. How the latter are drawn makes
the three settings: `random`, `popular` (the most frequent of the data) and `adversarial` (those that most often stand
together with the image's own objects). The objects come from the data's own annotations (`data.objects`).

What it cannot say: where the objects are the nouns of captions, an object that no caption names counts as absent
though the image may show it. Numbers of two data sets, or of two kinds of objects, must not be compared.

Axis legend: n questions, c images.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.mentions import related
from chiasm.core.random import counter_rng
from chiasm.core.types import Score
from chiasm.metrics.intervals import proportion, wilson
from chiasm.metrics.paired import corpus_interval

Setting = Literal["random", "popular", "adversarial"]
SETTINGS: tuple[Setting, ...] = ("random", "popular", "adversarial")
PER_IMAGE = 6
"""Questions about an image in each setting, as in the paper."""


@dataclass(frozen=True, slots=True)
class PopeItem:
    """One question: is `object` in image number `image`?"""

    image: int
    object: str
    is_yes: bool
    """True where the image has the object."""
    setting: Setting


def pope_questions(
    objects_by_image: Sequence[Collection[str]],
    per_image: int = PER_IMAGE,
    seed: int = 0,
    groups: Collection[Collection[str]] = (),
) -> list[PopeItem]:
    """Draw balanced questions for the three settings; the questions with the answer yes are the same in all three.

    An image with fewer than `per_image / 2` objects gets as many positives as it has and as many negatives; where too
    few objects may be asked as negatives, both are fewer. An image without objects gets none.

    Args:
        objects_by_image: for each image the objects that it has, synonyms already merged.
        per_image: even, at least 2; half of it is positive.
        seed: decides the draws, together with the image's place.
        groups: objects of which one may be said for another (`Vocabulary.groups`): no negative shares a group with
            an object of the image.

    Returns:
        Questions in the order of setting, image, positive before negative.
    """
    if per_image < 2 or per_image % 2:
        raise InputError(f"{per_image} questions an image", "an even number, at least 2", "pass per_image=6")
    owned = [set(objects) for objects in objects_by_image]
    counts = Counter(name for objects in owned for name in objects)
    by_frequency = sorted(counts, key=lambda name: (-counts[name], name))
    together = _together(owned)
    items: dict[str, list[PopeItem]] = {setting: [] for setting in SETTINGS}
    for image, own in enumerate(owned):
        excluded = related(own, groups)
        absent = [name for name in by_frequency if name not in excluded]
        size = min(per_image // 2, len(own), len(absent))
        positives = _drawn(sorted(own), size, "pope positive", seed, image)
        partners: Counter[str] = sum((together[name] for name in sorted(own)), Counter())
        negatives = {
            "random": _drawn(sorted(absent), size, "pope negative", seed, image),
            "popular": absent[:size],
            "adversarial": sorted(absent, key=lambda name: -partners[name])[:size],
        }
        for setting in SETTINGS:
            items[setting] += [PopeItem(image, name, True, setting) for name in positives]
            items[setting] += [PopeItem(image, name, False, setting) for name in negatives[setting]]
    return [item for setting in SETTINGS for item in items[setting]]


def pope_scores(
    predicted_yes: npt.ArrayLike, is_yes: npt.ArrayLike, setting: Sequence[str], image: npt.ArrayLike, seed: int = 0
) -> dict[str, Score]:
    """Accuracy, precision, recall, F1 and the share of yes among the model's answers, for each setting.

    Yes is the positive class. The names are `pope_accuracy_SETTING`, `pope_precision_`, `pope_recall_`, `pope_f1_` and
    `pope_yes_ratio_`; `pope_f1` is the mean F1 of the three settings, where all three are there. Without an answer yes
    precision and F1 are 0, and such a precision has n = 0 and the interval [0, 1]. A model that always says yes has
    F1 2/3 and accuracy 1/2: read F1 beside the blind score and the yes ratio.

    Args:
        predicted_yes: bool [n], True where the model says yes.
        is_yes: bool [n], True where yes is right.
        setting: [n], one of `SETTINGS` each.
        image: int [n], equal for questions about one image; the intervals draw images.
        seed: decides the resamples.

    Raises:
        InputError: no questions, unequal lengths, or an unknown setting.
    """
    said, truth = np.asarray(predicted_yes, dtype=bool), np.asarray(is_yes, dtype=bool)
    kinds, images = np.asarray(setting, dtype=str), np.asarray(image)
    if not 0 < len(said) == len(truth) == len(kinds) == len(images):
        given = f"{len(said)} answers, {len(truth)} truths, {len(kinds)} settings, {len(images)} images"
        raise InputError(given, "one of each for every question, at least one question", "pass pope_questions' items")
    if unknown := sorted(set(kinds.tolist()) - set(SETTINGS)):
        raise InputError(f"setting {unknown[0]!r}", ", ".join(SETTINGS), "pass PopeItem.setting")
    present = [name for name in SETTINGS if (kinds == name).any()]
    scores: dict[str, Score] = {}
    for name in present:
        rows = kinds == name
        given, right, of = said[rows], truth[rows], images[rows]
        scores[f"pope_accuracy_{name}"] = proportion(given == right, of, seed)
        scores[f"pope_precision_{name}"] = _share(right[given], of[given], seed)
        scores[f"pope_recall_{name}"] = _share(given[right], of[right], seed)
        scores[f"pope_f1_{name}"] = _mean_f1(_counts(given, right)[:, None], of, seed)
        scores[f"pope_yes_ratio_{name}"] = proportion(given, of, seed)
    if len(present) == len(SETTINGS):
        counts = _counts(said, truth)[:, None] * np.stack([kinds == name for name in SETTINGS], 1)[..., None]
        scores["pope_f1"] = _mean_f1(counts, images, seed)
    return scores


def _together(owned: Sequence[set[str]]) -> dict[str, Counter[str]]:
    """Object -> other object -> number of images with both."""
    found: dict[str, Counter[str]] = {}
    for objects in owned:
        for name in objects:
            found.setdefault(name, Counter()).update(objects - {name})
    return found


def _drawn(names: Sequence[str], size: int, purpose: str, seed: int, image: int) -> list[str]:
    return [names[place] for place in counter_rng(purpose, seed, image).permutation(len(names))[:size]]


def _share(outcomes: npt.NDArray[np.bool_], images: npt.NDArray[np.generic], seed: int) -> Score:
    return proportion(outcomes, images, seed) if len(outcomes) else Score(0.0, 0.0, 1.0, 0)


def _counts(said: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """True positives, and wrong answers of either kind: [n, 2]; F1 = 2 tp / (2 tp + wrong)."""
    return np.stack([said & truth, said != truth], axis=1).astype(np.float64)


def _mean_f1(counts: npt.NDArray[np.float64], images: npt.NDArray[np.generic], seed: int) -> Score:
    """Mean of the F1 of s settings from counts [n, s, 2], which are summed over questions before F1 is taken."""

    def score(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        hits, wrong = 2 * sums[..., 0::2], sums[..., 1::2]
        return (hits / np.maximum(hits + wrong, 1)).mean(-1)

    rows = counts.reshape(len(counts), -1)
    value = float(score(rows.sum(0)))
    low, high = (float(end) for end in corpus_interval(rows, score, images, seed))
    if high - low < 1e-12:  # Every image alike: the bootstrap has no width, Wilson over images has.
        clusters = len(np.unique(images))
        low, high = wilson(value * clusters, clusters)
    return Score(value, low, high, len(rows))
