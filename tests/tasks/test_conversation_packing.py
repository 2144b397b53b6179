"""Packing of conversations: properties, and the cases that may not be packed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.types import IMAGE_ID
from chiasm.data.tokenizers.chat import Spans
from chiasm.tasks.conversation_packing import PackedRow, packed, padded

PROMPT = [1, IMAGE_ID, 7, 8, 9]


def spans(prompt: list[int], answer: list[int], behind: int = 0) -> Spans:
    counted = [*[False] * len(prompt), *[True] * len(answer), *[False] * behind]
    return Spans([*prompt, *answer, *[90] * behind], counted)


def before(row: PackedRow, place: int) -> list[int]:
    """Ids that a place may attend to, itself last."""
    return [row.ids[one] for one in range(place + 1) if row.until[one] > place]


WORDS = st.lists(st.integers(10, 12), min_size=1, max_size=4)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2)), min_size=1, max_size=5))
def test_each_target_is_predicted_from_what_stands_before_it(drawn: list[tuple[list[int], list[int], int]]) -> None:
    """Nothing is lost, repeated or seen from another conversation; equal ones are counted as often as given."""
    conversations = [spans([*PROMPT, *asked], answer, behind) for asked, answer, behind in drawn]
    (row,) = packed(conversations)
    wanted = [
        (number, one.ids[:place], one.ids[place])
        for number, one in enumerate(conversations)
        for place, counts in enumerate(one.is_counted)
        if counts
    ]
    assert [(one.number, before(row, one.place), one.id) for one in row.targets] == wanted


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_every_beginning_stands_once(drawn: list[tuple[list[int], list[int]]]) -> None:
    """As many tokens as there are different beginnings, each of which ends before the last counted token."""
    conversations = [spans([*PROMPT, *asked], answer) for asked, answer in drawn]
    beginnings = {tuple(one.ids[:length]) for one in conversations for length in range(1, len(one.ids))}
    (row,) = packed(conversations)
    assert sorted(tuple(before(row, place)) for place in range(len(row.ids))) == sorted(beginnings)


def test_turns_of_a_conversation_follow_each_other() -> None:
    """Two replies: both are counted, and the second is predicted from all before it."""
    (row,) = packed([Spans([1, 2, 5, 3, 6, 9], [False, False, True, False, True, False])])
    assert row == ([1, 2, 5, 3], [4, 4, 4, 4], [(0, 1, 5), (0, 3, 6)])


def test_images_outside_the_beginning_are_not_packed() -> None:
    """A placeholder in a branch would be counted through the others."""
    rows = packed([spans([1, 2, IMAGE_ID, 3], [5]), spans([1, 2, 4, IMAGE_ID], [6])])
    assert [row.ids for row in rows] == [[1, 2, IMAGE_ID, 3], [1, 2, 4, IMAGE_ID]]


def test_conversations_that_begin_differently_stay_apart() -> None:
    assert len(packed([spans([1, 2], [5]), spans([3, 2], [5])])) == 2


def test_without_sharing_each_has_a_row() -> None:
    rows = packed([spans([1, 2], [5]), spans([1, 2], [6])], shares=False)
    assert [row.ids for row in rows] == [[1, 2], [1, 2]]


def test_rows_are_padded_on_the_right() -> None:
    rows = [*packed([spans([1, 2, 3], [5])]), *packed([spans([1], [6, 7])])]
    fields = padded(rows, pad_id=99)
    assert fields["turn_ids"].tolist() == [[1, 2, 3], [1, 6, 99]]
    assert fields["turn_is_real"].sum(1).tolist() == [3, 2]
    assert fields["turn_until"].tolist() == [[3, 3, 3], [2, 2, 0]]
    assert fields["target_ids"].tolist() == [[5, 99], [6, 7]]
    assert fields["target_is_real"].tolist() == [[True, False], [True, True]]
    assert fields["target_places"].tolist() == [[2, 0], [0, 1]]
