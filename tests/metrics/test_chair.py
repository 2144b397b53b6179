"""CHAIR against a count by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.core.mentions import Vocabulary
from chiasm.metrics.chair import chair_scores, hallucinated

WORDS = {"dog": "dog", "dogs": "dog", "puppy": "dog", "cat": "cat", "man": "man", "person": "person", "cup": "cup"}
VOCABULARY = Vocabulary(WORDS, (frozenset({"man", "person"}),))


def test_by_hand() -> None:
    """Five mentions, three of them wrong in one of two captions: a mention that is repeated counts again."""
    captions = ["A cat, a cat and a cup with two puppies dogs", "a person"]
    scores = chair_scores(captions, [{"dog"}, {"man"}], VOCABULARY, [0, 1])
    assert hallucinated(captions[0], {"dog"}, VOCABULARY) == [
        ("cat", True),
        ("cat", True),
        ("cup", True),
        ("dog", False),
    ]
    assert (scores["chair_i"].value, scores["chair_i"].n) == (pytest.approx(3 / 5), 5)
    assert (scores["chair_s"].value, scores["chair_s"].n) == (0.5, 2)
    assert scores["chair_mentions"].value == 2.5


def test_chinese() -> None:
    """Synonyms and longest forms in text without spaces."""
    vocabulary = Vocabulary({"狗": "狗", "小狗": "狗", "热狗": "热狗", "草地": "草地", "人": "人"})
    scores = chair_scores(["一只小狗在草地上", "吃热狗的人"], [{"狗"}, {"热狗", "人"}], vocabulary, [0, 1])
    assert scores["chair_i"].value == 1 / 4
    assert scores["chair_s"].value == 1 / 2


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([*WORDS, "red"]), max_size=6), st.sets(st.sampled_from(["dog", "cat", "man"]))
        ),
        min_size=1,
        max_size=8,
    )
)
def test_equals_a_slow_count(rows: list[tuple[list[str], set[str]]]) -> None:
    """One word a mention, so that a loop can count; each value lies in its interval."""
    wrong = said = bad = 0
    for words, own in rows:
        false = 0
        for word in words:
            if word in WORDS:
                name = WORDS[word]
                said += 1
                false += name not in own and not (name == "person" and "man" in own)
        wrong += false
        bad += false > 0
    scores = chair_scores(
        [" ".join(words) for words, _ in rows], [own for _, own in rows], VOCABULARY, range(len(rows))
    )
    assert scores["chair_i"].value == pytest.approx(wrong / said if said else 0)
    assert scores["chair_i"].n == said
    assert scores["chair_s"].value == pytest.approx(bad / len(rows))
    assert scores["chair_mentions"].value == pytest.approx(said / len(rows))
    for score in scores.values():
        assert score.low - 1e-9 <= score.value <= score.high + 1e-9


def test_interval_draws_images() -> None:
    """Copies of each image's caption do not narrow the interval."""
    captions, own = ["dog cat", "dog", "cat cat", "cup dog"] * 5, [{"dog"}] * 20
    once = chair_scores(captions, own, VOCABULARY, range(20))
    often = chair_scores(captions * 6, own, VOCABULARY, list(range(20)) * 6)
    for name in ("chair_i", "chair_s"):
        assert often[name].high - often[name].low == pytest.approx(once[name].high - once[name].low)


def test_silence_is_never_wrong() -> None:
    """A model that names nothing has 0 of both, which `chair_mentions` shows."""
    scores = chair_scores(["red"], [{"dog"}], VOCABULARY, [0])
    assert (scores["chair_i"].value, scores["chair_i"].high, scores["chair_i"].n) == (0, 1, 0)
    assert scores["chair_s"].value == scores["chair_mentions"].value == 0


@pytest.mark.parametrize(("captions", "image"), [([], []), (["dog"], [0, 0]), (["dog"], [1]), (["dog"], [-1])])
def test_wrong_input(captions: list[str], image: list[int]) -> None:
    """No captions, unequal lengths, images without objects."""
    with pytest.raises(InputError):
        chair_scores(captions, [{"dog"}], VOCABULARY, image)
