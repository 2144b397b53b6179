"""Mentions of objects in sentences: the longest form wins, each mention counts, Chinese needs no spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.mentions import Vocabulary, related

FORMS = {"dog": "dog", "dogs": "dog", "puppy": "dog", "hot dog": "hot dog", "light": "lamp", "traffic light": "light"}
FORMS |= {"狗": "狗", "热狗": "热狗", "小狗": "狗", "T恤": "T恤", "dog house": "kennel", "狗屋": "狗屋"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two dogs and a Puppy.", ["dog", "dog"]),
        ("a hot dog beside a dog", ["hot dog", "dog"]),
        ("hot hot-dog", ["hot dog"]),
        ("the traffic light is a light", ["light", "lamp"]),
        ("dogged dogma", []),
        ("a dog in a dog house", ["dog", "kennel"]),
        ("狗屋里的狗", ["狗屋", "狗"]),
        ("两只小狗和热狗。", ["狗", "热狗"]),
        ("穿T恤的狗", ["T恤", "狗"]),
        ("", []),
    ],
)
def test_longest_form(text: str, found: list[str]) -> None:
    """Whole words only, and of overlapping forms the longest alone."""
    assert Vocabulary(FORMS).mentions(text) == found


@given(st.lists(st.sampled_from([*FORMS, "red", "hot", "在"]), max_size=8))
def test_equals_a_search_of_every_window(pieces: list[str]) -> None:
    """A slow search over all windows, the longest first at each place, finds the same."""
    words = (
        " ".join(pieces)
        .casefold()
        .replace("热狗", "热 狗")
        .replace("小狗", "小 狗")
        .replace("狗屋", "狗 屋")
        .replace("t恤", "t 恤")
        .split()
    )
    known = {tuple(" ".join(form.casefold()).split()) if not form.isascii() else tuple(form.split()) for form in FORMS}
    names = {
        tuple(" ".join(form.casefold()).split()) if not form.isascii() else tuple(form.split()): FORMS[form]
        for form in FORMS
    }
    slow, place = [], 0
    while place < len(words):
        size = next((n for n in (3, 2, 1) if tuple(words[place : place + n]) in known), 0)
        if size:
            slow.append(names[tuple(words[place : place + size])])
        place += size or 1
    assert Vocabulary(FORMS).mentions(" ".join(pieces)) == slow


def test_related_objects_share_a_group() -> None:
    """Groups are not joined over a common member that the image lacks."""
    groups = [{"man", "person"}, {"dog", "animal"}, {"cat", "animal"}]
    assert related({"dog"}, groups) == {"dog", "animal"}
    assert related({"cup"}, groups) == {"cup"}
    assert Vocabulary({}, (frozenset({"man", "person"}),)).with_related({"man"}) == {"man", "person"}
