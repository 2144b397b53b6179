"""Images among words, against rows put together by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chiasm.core.types import IMAGE_ID, Tokens
from chiasm.models.bridge.splicing import GivenRows, axes_along, spliced

DIM = 3


def by_hand(ids: list[int], branch: list[int], images: list[list[list[float]]]) -> tuple[list[list[float]], list[int]]:
    """Embeddings and branch of one row; the embedding of word w is [w, w, w]."""
    values, branches, number = [], [], 0
    for one, own in zip(ids, branch, strict=True):
        shown = [[float(one)] * DIM]
        if one == IMAGE_ID:
            shown = images[number] if number < len(images) else []
            number += 1
        values += shown
        branches += [own] * len(shown)
    return values, branches


def rows(lists: list[list[int]], branches: list[list[int]]) -> GivenRows:
    width = max(map(len, lists))
    ids = torch.tensor([one + [0] * (width - len(one)) for one in lists])
    is_real = torch.tensor([[True] * len(one) + [False] * (width - len(one)) for one in lists])
    branch = torch.tensor([one + [0] * (width - len(one)) for one in branches])
    return GivenRows(ids, is_real, branch)


TOKENS = st.lists(st.sampled_from([5, 6, 7, IMAGE_ID]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=3), st.integers(1, 3), st.booleans())
def test_rows_are_those_put_together_by_hand(lists: list[list[int]], size: int, left: bool) -> None:
    """Every placeholder becomes the tokens of its image, in order, and branches go with them."""
    branches = [[number // 3 for number in range(len(one))] for one in lists]
    count = sum(one.count(IMAGE_ID) for one in lists)
    values = torch.arange(count * size * DIM, dtype=torch.float32).view(count, size, DIM) + 100
    images = Tokens(values, torch.ones(count, size, dtype=torch.bool), torch.zeros(count, DIM))
    given_rows = rows(lists, branches)
    is_image = (given_rows.ids == IMAGE_ID) & given_rows.is_real
    image_of = torch.where(is_image, is_image.flatten().long().cumsum(0).view_as(is_image) - 1, -1)
    words = given_rows.ids[:, :, None].float().expand(-1, -1, DIM)
    found = spliced(given_rows, words, images if count else None, image_of, pads_left=left)
    used = 0
    for number, (ids, branch) in enumerate(zip(lists, branches, strict=True)):
        own = ids.count(IMAGE_ID)
        expected, expected_branch = by_hand(ids, branch, values[used : used + own].tolist())
        used += own
        real = found.is_real[number]
        assert found.embeddings[number][real].tolist() == expected
        assert not bool(found.embeddings[number][~real].any()), "padding holds nothing"
        assert bool(real[-len(expected) :].all() if left else real[: len(expected)].all()), "padding is on one side"
        check_mask(found.allowed[number][real][:, real], found.positions[number][real], expected_branch)


def check_mask(allowed: Tensor, positions: Tensor, branch: list[int]) -> None:
    """Slow loop: a position attends to those before it, in its branch or in the shared beginning."""
    for query, own in enumerate(branch):
        seen = [key for key in range(len(branch)) if key <= query and branch[key] in (0, own)]
        assert allowed[query].nonzero()[:, 0].tolist() == seen
        assert int(positions[query]) == len(seen) - 1


STEPS = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 1, 1]])
"""An image of two rows and two columns, after which two places are gone."""


def test_places_on_axes_are_those_counted_by_hand() -> None:
    """Rows and columns of an image begin where the words before it end, and the words behind it after both."""
    values = torch.ones(2, 4, DIM)
    images = Tokens(values, torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, DIM), steps=STEPS.expand(2, -1, -1))
    lists = [[5, IMAGE_ID, 6, IMAGE_ID, 7, 8, 9], [5, 6]]
    image_of = torch.tensor([[-1, 0, -1, 1, -1, -1, -1], [-1] * 7])
    given_rows = rows(lists, [[0, 0, 0, 0, 1, 1, 2], [0, 0]])
    by_hand = [list(divmod(place, 10)) for place in (0, 11, 12, 21, 22, 33, 44, 45, 54, 55, 66, 77, 66)]
    for left in (False, True):
        found = spliced(given_rows, torch.ones(2, 7, DIM), images, image_of, pads_left=left)
        assert found.axes is not None
        assert found.axes[0].tolist() == by_hand, "the last is another continuation"
        assert found.axes[1][found.is_real[1]].tolist() == [[0, 0], [1, 1]]
    word = torch.tensor([[1, 0, 0]])
    assert axes_along(torch.cat([word, STEPS, word, STEPS, word])).tolist() == by_hand[:11]
    assert spliced(given_rows, torch.ones(2, 7, DIM), images._replace(steps=None), image_of).axes is None


def test_an_absent_image_takes_no_place() -> None:
    given_rows = rows([[5, IMAGE_ID, 6]], [[0, 0, 0]])
    found = spliced(given_rows, torch.ones(1, 3, DIM), None, torch.full((1, 3), -1))
    assert found.embeddings.shape == (1, 2, DIM) and found.places.tolist() == [[0, 1, 1]]


def test_padding_attends_to_itself_alone() -> None:
    """Without any key its softmax would be undefined."""
    given_rows = rows([[5], [5, 6, 7]], [[0], [0, 0, 0]])
    found = spliced(given_rows, torch.ones(2, 3, DIM), None, torch.full((2, 3), -1))
    assert found.allowed[0, 1:].tolist() == [[False, True, False], [False, False, True]]
