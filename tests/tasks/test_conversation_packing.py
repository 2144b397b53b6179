"""Packing of conversations: properties, and the cases that may not be packed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.types import IMAGE_ID
from chiasm.data.tokenizers.chat import Spans
from chiasm.tasks.conversation_packing import packed, padded

PROMPT = [1, IMAGE_ID, 7, 8, 9]


def spans(prompt: list[int], answer: list[int]) -> Spans:
    return Spans([*prompt, *answer], [*[False] * len(prompt), *[True] * len(answer)])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(10, 20), min_size=1, max_size=4), min_size=2, max_size=4), st.integers(0, 3))
def test_each_branch_with_the_beginning_is_its_conversation(answers: list[list[int]], differs: int) -> None:
    """Nothing is lost, and every counted token follows a token of its own branch."""
    prompts = [[*PROMPT, *[30 + number] * (differs > 0), *range(40, 40 + differs)] for number in range(len(answers))]
    given_spans = [spans(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    (row,) = packed(given_spans)
    for number, one in enumerate(given_spans, 1):
        chosen = [place for place, branch in enumerate(row.branch) if branch in (0, number)]
        assert [row.ids[place] for place in chosen] == one.ids
        assert [row.is_counted[place] for place in chosen] == one.is_counted
        first = row.branch.index(number)
        assert not row.is_counted[first], "the first counted token is predicted from a token of its branch"


def test_images_outside_the_beginning_are_not_packed() -> None:
    """A placeholder in a branch would be counted through the others."""
    rows = packed([spans([1, 2, IMAGE_ID, 3], [5]), spans([1, 2, 4, IMAGE_ID], [6])])
    assert len(rows) == 2 and all(set(row.branch) == {0} for row in rows)


def test_conversations_that_begin_differently_stay_apart() -> None:
    assert len(packed([spans([1, 2], [5]), spans([3, 2], [5])])) == 2


def test_rows_are_padded_on_the_right() -> None:
    rows = [*packed([spans([1, 2, 3], [5])]), *packed([spans([1], [5])])]
    fields = padded(rows, pad_id=99)
    assert fields["turn_ids"].tolist() == [[1, 2, 3, 5], [1, 5, 99, 99]]
    assert fields["turn_is_real"].sum(1).tolist() == [4, 2]
    assert fields["turn_is_counted"].tolist() == [[False, False, False, True], [False, True, False, False]]
