"""The tables of words: that they fit each other."""

from chiasm.data.object_words import (
    BROADER,
    INTERCHANGED,
    IRREGULAR_PLURALS,
    KINDS,
    NOT_OBJECTS,
    OFTEN_UNSAID,
    PLURAL_ONLY,
    SYNONYMS,
)


def test_a_synonym_belongs_to_one_object() -> None:
    """No object is another's synonym: merging is done in one step, and in one way."""
    words = [word for synonyms in SYNONYMS.values() for word in synonyms]
    assert len(words) == len(set(words))
    assert not set(words) & set(SYNONYMS)


def test_no_kind_contains_itself() -> None:
    """A word narrower than itself would be a line cut wrongly."""
    for table in (SYNONYMS, KINDS, BROADER):
        for name, words in table.items():
            assert name and name not in words and all(words)


def test_what_is_asked_for_is_an_object() -> None:
    """Kinds of things are objects; a plural that is none has no singular in the other table."""
    assert not set(KINDS) & (NOT_OBJECTS | OFTEN_UNSAID)
    assert not PLURAL_ONLY & set(IRREGULAR_PLURALS)
    assert IRREGULAR_PLURALS["men"] == "man" and IRREGULAR_PLURALS["snowmen"] == "snowman"


def test_groups_have_at_least_two_words() -> None:
    """A line that was not cut at its commas would be one word."""
    assert all(len(group) > 1 for group in INTERCHANGED)
