"""Images among words, against rows put together by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chiasm.core.types import IMAGE_ID, Tokens
from chiasm.models.bridge.splicing import GivenRows, axes_along, spliced

DIM = 3


def by_hand(ids: list[int], images: list[list[list[float]]]) -> tuple[list[list[float]], list[int]]:
    """Embeddings of one row, and the given token of each; the embedding of word w is [w, w, w]."""
    values, owners, number = [], [], 0
    for owner, one in enumerate(ids):
        shown = [[float(one)] * DIM]
        if one == IMAGE_ID:
            shown = images[number] if number < len(images) else []
            number += 1
        values += shown
        owners += [owner] * len(shown)
    return values, owners


def rows(lists: list[list[int]], untils: list[list[int]]) -> GivenRows:
    width = max(map(len, lists))
    ids = torch.tensor([one + [0] * (width - len(one)) for one in lists])
    is_real = torch.tensor([[True] * len(one) + [False] * (width - len(one)) for one in lists])
    until = torch.tensor([one + [0] * (width - len(one)) for one in untils])
    return GivenRows(ids, is_real, until)


def tree(sizes: list[int]) -> tuple[list[int], list[int]]:
    """Parent and `until` of a tree in depth-first order, whose node i has the next sizes[i] % 3 trees below it."""
    parents: list[int] = []
    untils = [0] * len(sizes)

    def grow(parent: int) -> None:
        if len(parents) == len(sizes):
            return
        number = len(parents)
        parents.append(parent)
        for _ in range(sizes[number] % 3):
            grow(number)
        untils[number] = len(parents)

    while len(parents) < len(sizes):
        grow(-1)
    return parents, untils


TOKENS = st.lists(st.sampled_from([5, 6, 7, IMAGE_ID]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=3), st.integers(1, 3))
def test_rows_are_those_put_together_by_hand(lists: list[list[int]], size: int) -> None:
    """Every placeholder becomes the tokens of its image, in order, at its place of the tree."""
    trees = [tree([one % 4 for one in some]) for some in lists]
    count = sum(one.count(IMAGE_ID) for one in lists)
    values = torch.arange(count * size * DIM, dtype=torch.float32).view(count, size, DIM) + 100
    images = Tokens(values, torch.ones(count, size, dtype=torch.bool), torch.zeros(count, DIM))
    given_rows = rows(lists, [untils for _, untils in trees])
    is_image = (given_rows.ids == IMAGE_ID) & given_rows.is_real
    image_of = torch.where(is_image, is_image.flatten().long().cumsum(0).view_as(is_image) - 1, -1)
    words = given_rows.ids[:, :, None].float().expand(-1, -1, DIM)
    found = spliced(given_rows, words, images if count else None, image_of)
    used = 0
    for number, (ids, (parents, _)) in enumerate(zip(lists, trees, strict=True)):
        own = ids.count(IMAGE_ID)
        expected, owners = by_hand(ids, values[used : used + own].tolist())
        used += own
        real = found.is_real[number]
        assert found.embeddings[number][real].tolist() == expected
        assert not bool(found.embeddings[number][~real].any()), "padding holds nothing"
        assert bool(real[: len(expected)].all()), "padding is on the right"
        check_mask(found.allowed[number][real][:, real], found.positions[number][real], owners, parents)
        assert found.places[number, : len(ids) + 1].tolist() == [
            sum(owner < one for owner in owners) for one in range(len(ids) + 1)
        ]


def check_mask(allowed: Tensor, positions: Tensor, owners: list[int], parents: list[int]) -> None:
    """Slow loop: a position attends to those of its own token up to it, and to all of the tokens above it."""
    for query, owner in enumerate(owners):
        above, chain = owner, {owner}
        while parents[above] >= 0:
            above = parents[above]
            chain.add(above)
        seen = [key for key in range(query + 1) if owners[key] in chain]
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
    given_rows = rows(lists, [[7, 7, 7, 7, 6, 6, 7], [2, 2]])
    by_hand = [list(divmod(place, 10)) for place in (0, 11, 12, 21, 22, 33, 44, 45, 54, 55, 66, 77, 66)]
    found = spliced(given_rows, torch.ones(2, 7, DIM), images, image_of)
    assert found.axes is not None
    assert found.axes[0].tolist() == by_hand, "the last is another continuation"
    assert found.axes[1][found.is_real[1]].tolist() == [[0, 0], [1, 1]]
    word = torch.tensor([[1, 0, 0]])
    assert axes_along(torch.cat([word, STEPS, word, STEPS, word])).tolist() == by_hand[:11]
    assert spliced(given_rows, torch.ones(2, 7, DIM), images._replace(steps=None), image_of).axes is None


def test_an_absent_image_takes_no_place() -> None:
    given_rows = rows([[5, IMAGE_ID, 6]], [[3, 3, 3]])
    found = spliced(given_rows, torch.ones(1, 3, DIM), None, torch.full((1, 3), -1))
    assert found.embeddings.shape == (1, 2, DIM) and found.places.tolist() == [[0, 1, 1, 2]]


def test_padding_attends_to_itself_alone() -> None:
    """Without any key its softmax would be undefined."""
    given_rows = rows([[5], [5, 6, 7]], [[1], [3, 3, 3]])
    found = spliced(given_rows, torch.ones(2, 3, DIM), None, torch.full((2, 3), -1))
    assert found.allowed[0, 1:].tolist() == [[False, True, False], [False, False, True]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([5, 6, IMAGE_ID]), min_size=1, max_size=6), min_size=1, max_size=3))
def test_what_is_shared_is_the_longest_beginning_of_words_that_all_rows_have(lists: list[list[int]]) -> None:
    """Of rows of one conversation each, counted by a loop; an image ends it, and one row shares nothing."""
    given_rows = rows(lists, [[len(one)] * len(one) for one in lists])
    absent = torch.full_like(given_rows.ids, -1)
    length = 0
    while len(lists) > 1 and all(one[length : length + 1] == lists[0][length : length + 1] for one in lists):
        if lists[0][length : length + 1] in ([], [IMAGE_ID]):
            break
        length += 1
    words = torch.ones(*given_rows.ids.shape, DIM)
    assert spliced(given_rows, words, None, absent).shared == length
    assert spliced(given_rows._replace(until=None), words, None, absent).shared == length


def test_a_token_that_a_continuation_does_not_stand_behind_is_not_shared() -> None:
    given_rows = rows([[5, 6, 7, 6], [5, 6, 8, 6]], [[4, 3, 3, 4], [4, 4, 3, 4]])
    found = spliced(given_rows, torch.ones(2, 4, DIM), None, torch.full((2, 4), -1))
    assert found.shared == 1
