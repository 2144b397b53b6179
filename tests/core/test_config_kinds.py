"""Sections whose class a word decides: a tower's kind, a task's name."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from chiasm.core.config import by_kind, by_kind_each, by_name, from_dict, keys, override, to_dict
from chiasm.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    kind: str = ""
    size_px: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius_px: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Star(Shape):
    kind: Literal["star"] = "star"
    points: int = 5


SHAPES: dict[str, type[Shape]] = {"circle": Circle, "star": Star}


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    shape: Shape = field(default_factory=Circle, metadata=by_kind(lambda: SHAPES))
    named: dict[str, Shape] = field(default_factory=dict, metadata=by_name(lambda: SHAPES))
    several: dict[str, Shape] = field(default_factory=dict, metadata=by_kind_each(lambda: SHAPES))


def test_a_tree_with_kinds_survives_json() -> None:
    """Guards against a section that is read back as another class, or with the defaults of one."""
    root = Root(
        shape=Star(points=7, size_px=4),
        named={"star": Star(points=6), "circle": Circle()},
        several={"one": Star(points=2), "two": Circle(radius_px=1)},
    )
    assert from_dict(Root, to_dict(root)) == root
    assert dict(keys(root))["shape.points"] == 7 and "shape.radius_px" not in dict(keys(root))


def test_a_word_changes_the_class_and_keeps_what_both_have() -> None:
    """Guards against a size that is lost when another kind is chosen."""
    changed = override(Root(shape=Circle(size_px=2)), ["shape.kind=star", "shape.points=9"])
    assert changed.shape == Star(size_px=2, points=9)
    assert override(Root(), ["named.star.points=4"]).named == {"star": Star(points=4)}
    several = override(Root(), ["several.one.kind=star", "several.one.points=4", "several.two.size_px=5"]).several
    assert several == {"one": Star(points=4), "two": Circle(size_px=5)}


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (
            "shape.points=3",
            ["'shape.points' means something for shape.kind star alone", "--set shape.kind=star before"],
        ),
        ("shape.kind=square", ["shape.kind is 'square'", "one of circle, star"]),
        ("named.square.points=3", ["named.square is not known", "one of circle, star"]),
        ("named.circle.points=3", ["'named.circle.points' means something for named star alone", "drop it"]),
        ("shape.radios_px=3", ["unknown config key 'shape.radios_px' (did you mean 'shape.radius_px'?)"]),
    ],
)
def test_a_key_of_another_kind_is_refused(word: str, parts: list[str]) -> None:
    """Guards against a key that is accepted and means nothing."""
    with pytest.raises(InputError) as caught:
        override(Root(), [word])
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("values", [{"shape": {"points": 3}}, {"named": {"circle": {"points": 3}}}])
def test_a_stored_section_may_have_keys_of_other_kinds(values: dict[str, Any]) -> None:
    """Guards against a folder of an earlier version, which kept the keys of all kinds, that no longer opens."""
    with pytest.raises(InputError, match="means something for"):
        from_dict(Root, values)
    read = from_dict(Root, values, is_stored=True)
    assert read.shape == Circle() and read.named in ({}, {"circle": Circle()})
    with pytest.raises(InputError, match="unknown key 'wrong'"):
        from_dict(Root, {"shape": {"wrong": 1}}, is_stored=True)


def test_an_entry_added_at_run_time_is_known() -> None:
    """Guards against a copy of the table that an outsider's class never reaches."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Blob(Shape):
        kind: Literal["blob"] = "blob"
        softness: float = 0.5

    SHAPES["blob"] = Blob
    try:
        assert override(Root(), ["shape.kind=blob", "shape.softness=1"]).shape == Blob(softness=1.0)
    finally:
        del SHAPES["blob"]
