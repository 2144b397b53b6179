"""POPE against counts by hand, and the properties of its questions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.metrics.pope import SETTINGS, PopeItem, pope_questions, pope_scores

NAMES = ["dog", "cat", "car", "tree", "cup", "ball", "man", "woman"]
GROUPS = [{"man", "woman"}, {"ball", "cup"}]
images_of_objects = st.lists(st.sets(st.sampled_from(NAMES)), min_size=1, max_size=12)


@given(images_of_objects, st.sampled_from([2, 4, 6]), st.integers(0, 5))
def test_questions_are_balanced_and_true(objects: list[set[str]], per_image: int, seed: int) -> None:
    """One negative a positive, never more than asked for; no negative is in the image or may be said for one."""
    items = pope_questions(objects, per_image, seed, GROUPS)
    assert items == pope_questions(objects, per_image, seed, GROUPS)
    for setting in SETTINGS:
        for image, own in enumerate(objects):
            asked = [item for item in items if (item.setting, item.image) == (setting, image)]
            yes = [item.object for item in asked if item.is_yes]
            no = [item.object for item in asked if not item.is_yes]
            unsafe = own | {name for group in GROUPS if group & own for name in group}
            possible = len(set().union(*objects) - unsafe)
            assert len(yes) == len(no) == min(per_image // 2, len(own), possible)
            assert set(yes) <= own and not set(no) & unsafe
            assert len(set(yes)) == len(yes) and len(set(no)) == len(no)


@given(images_of_objects, st.integers(0, 5))
def test_negatives_equal_a_slow_count(objects: list[set[str]], seed: int) -> None:
    """Popular negatives are the most frequent, adversarial ones those most often together with the image's own."""
    items = pope_questions(objects, 6, seed)
    for image, own in enumerate(objects):
        absent = sorted(set().union(*objects) - own)
        frequency = {name: sum(name in other for other in objects) for name in absent}
        partners = {name: sum(len(own & other) for other in objects if name in other) for name in absent}
        for setting, score in (("popular", frequency), ("adversarial", partners)):
            no = [item.object for item in items if (item.setting, item.image, item.is_yes) == (setting, image, False)]
            left = [score[name] for name in absent if name not in no]
            assert not no or not left or min(score[name] for name in no) >= max(left)
    positives = [[(i.image, i.object) for i in items if i.is_yes and i.setting == setting] for setting in SETTINGS]
    assert positives[0] == positives[1] == positives[2]


def test_random_negatives_are_uniform() -> None:
    """Over many images each absent object is drawn about equally often, however frequent it is."""
    objects = [{"dog", "cat"}] * 900 + [{"car"}, {"tree"}, {"cup"}]
    drawn = Counter(item.object for item in pope_questions(objects, 2)[: 2 * 900] if not item.is_yes)
    assert set(drawn) == {"car", "tree", "cup"} and min(drawn.values()) > 240
    assert pope_questions(objects, 2, seed=1) != pope_questions(objects, 2, seed=0)


@pytest.mark.parametrize("per_image", [0, 3, -2])
def test_odd_numbers_of_questions_are_refused(per_image: int) -> None:
    """Half of them must be positive."""
    with pytest.raises(InputError, match="even number"):
        pope_questions([{"dog"}], per_image)


def slow_scores(said: list[bool], truth: list[bool]) -> dict[str, float]:
    """The five numbers by a loop over questions."""
    tp = fp = fn = tn = 0
    for answer, right in zip(said, truth, strict=True):
        tp += answer and right
        fp += answer and not right
        fn += not answer and right
        tn += not answer and not right
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "accuracy": (tp + tn) / len(said),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": (tp + fp) / len(said),
    }


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=8))
def test_scores_equal_a_slow_count(answers: list[tuple[bool, ...]]) -> None:
    """Every number of every setting, and the mean F1; each lies in its interval."""
    items = [
        PopeItem(image, "x", is_yes, setting)
        for image in range(len(answers))
        for setting in SETTINGS
        for is_yes in (True, False)
    ]
    said = [answer for row in answers for answer in row]
    scores = pope_scores(
        said, [item.is_yes for item in items], [item.setting for item in items], [item.image for item in items]
    )
    f1 = []
    for setting in SETTINGS:
        rows = [number for number, item in enumerate(items) if item.setting == setting]
        slow = slow_scores([said[row] for row in rows], [items[row].is_yes for row in rows])
        f1.append(slow["f1"])
        for name, value in slow.items():
            assert scores[f"pope_{name}_{setting}"].value == pytest.approx(value)
    assert scores["pope_f1"].value == pytest.approx(float(np.mean(f1)))
    assert len(scores) == 16
    for score in scores.values():
        assert 0 <= score.low <= score.value + 1e-9 and score.value - 1e-9 <= score.high <= 1


def test_always_yes_by_hand() -> None:
    """Its yes ratio is 1, its accuracy 1/2, its F1 2/3: the ratio is the model's, not the truth's."""
    scores = pope_scores([True] * 8, [True, False] * 4, ["random"] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    values = {name: round(score.value, 3) for name, score in scores.items()}
    assert values == {
        "pope_accuracy_random": 0.5,
        "pope_precision_random": 0.5,
        "pope_recall_random": 1.0,
        "pope_f1_random": 0.667,
        "pope_yes_ratio_random": 1.0,
    }
    assert all(score.low < score.high for score in scores.values())


def test_never_yes_has_a_precision_of_no_answers() -> None:
    """Nothing is known of the precision of a model that never says yes."""
    scores = pope_scores([False] * 4, [True, False] * 2, ["popular"] * 4, [0, 0, 1, 1])
    precision = scores["pope_precision_popular"]
    assert (precision.value, precision.low, precision.high, precision.n) == (0, 0, 1, 0)
    assert scores["pope_f1_popular"].value == scores["pope_yes_ratio_popular"].value == 0


def test_intervals_draw_images() -> None:
    """Questions copied within their image tell nothing new, so the interval keeps its width."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(40), 2)
    truth = np.tile([True, False], 40)
    said = np.where(rng.random(80) < 0.7, truth, ~truth)
    once = pope_scores(said, truth, ["random"] * 80, image)
    often = pope_scores(np.tile(said, 9), np.tile(truth, 9), ["random"] * 720, np.tile(image, 9))
    for name in ("pope_accuracy_random", "pope_f1_random"):
        assert often[name].high - often[name].low == pytest.approx(once[name].high - once[name].low)


@pytest.mark.parametrize(
    ("said", "setting", "what"),
    [([], [], "0 answers"), ([True], ["random", "random"], "2 settings"), ([True], ["hard"], "'hard'")],
)
def test_wrong_input(said: list[bool], setting: list[str], what: str) -> None:
    """Nothing to count, unequal lengths, unknown settings."""
    with pytest.raises(InputError, match=what):
        pope_scores(said, said, setting, list(range(len(said))))
