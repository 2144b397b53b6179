"""Rows joined by groups and members, compared with joining pairs until nothing changes."""

from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.groups import joined_groups

ROWS = st.lists(st.tuples(st.sampled_from(["", "p", "q"]), st.lists(st.sampled_from("abcdefgh"), min_size=1)))


def slowly(groups: list[str], members: list[list[str]]) -> list[int]:
    """A number for each row, made equal for each pair with something in common until nothing changes."""
    part, changed = list(range(len(groups))), True
    while changed:
        changed = False
        for one in range(len(groups)):
            for other in range(len(groups)):
                shared = bool(set(members[one]) & set(members[other])) or groups[one] == groups[other] != ""
                if shared and part[one] != part[other]:
                    part[one] = part[other] = min(part[one], part[other])
                    changed = True
    return part


@given(ROWS)
def test_rows_are_joined_through_others_and_no_further(rows: list[tuple[str, list[str]]]) -> None:
    """Guards against an image on both sides of a split, and against everything in one group."""
    groups, members = [group for group, _ in rows], [names for _, names in rows]
    found, expected = joined_groups(groups, members), slowly(groups, members)
    for one in range(len(rows)):
        for other in range(len(rows)):
            assert (found[one] == found[other]) is (expected[one] == expected[other])


def test_a_stated_group_names_its_rows_and_else_the_first_member() -> None:
    """Guards against splits of data with single images that are drawn otherwise than by image or group."""
    assert joined_groups([], []) == []
    assert joined_groups(["", "p", ""], [["a"], ["b"], ["c", "b"]]) == ["a", "p", "p"]
    assert joined_groups(["", "", "q"], [["b", "a"], ["a"], ["z"]]) == ["b", "b", "q"]
    assert joined_groups(["a", ""], [["x"], ["a"]]) == ["a", "a"], "equal names: one is a group, one an image"
