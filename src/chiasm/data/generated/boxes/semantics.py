"""Meanings of statements about boxes, and their truth for an image.

An item is a set of properties, stored as the bits of an integer, so that "a small black circle that touches no wall" is
one comparison. A statement's meaning is a count (of items, of adjacent blocks, of boxes that satisfy a condition, of
boxes that share a property) and the number that it is compared with.

Ambiguous words are interpreted as in the annotations of the published images: a gap of one pixel still touches;
"above", "on" and "over" mean directly above; "only blue and black items" requires both colours. A bare number ("two
blocks") means exactly that many; `is_doubtful` finds statements whose truth would differ with "at least".
"""

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from chiasm.data.generated.boxes.render import BOX_PX, COLORS, SHAPES, SIZES, BoxesScene

WALLS = ("left", "right", "roof", "bottom")
PLACES = ("base", "top", "second", "third", "below_top", "middle")
"""Places in a tower: the second and third block are counted from the base; the middle is all but base and top."""
_NAMES = (*COLORS, *SHAPES, *SIZES, *WALLS, "edge", "corner", *PLACES)
BIT = {name: 1 << number for number, name in enumerate(_NAMES)}
"""Property -> its bit. "edge" is any wall, "corner" two walls that meet."""
ATTRIBUTES = {
    "color": sum(BIT[name] for name in COLORS),
    "shape": sum(BIT[name] for name in SHAPES),
    "size": sum(BIT[name] for name in SIZES),
}
TOUCH_GAP_PX = 1

Comparison = Literal["==", ">=", "<=", "bare"]
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    ">=": operator.ge,
    "<=": operator.le,
    "bare": operator.eq,
}
_COMPARE_LENIENT = {**_COMPARE, "bare": operator.ge}
BoxFacts = tuple[int, ...]
"""Properties of a box's items; blocks of a tower from the base up."""
Facts = tuple[BoxFacts, ...]


def facts_of(scene: BoxesScene) -> Facts:
    """Compute the properties of every item."""
    seen = []
    for box in scene.boxes:
        found = []
        last = len(box) - 1
        for number, (x, y, size, color, shape) in enumerate(box):
            far = BOX_PX - SIZES[size] - TOUCH_GAP_PX
            bits = BIT[size] | BIT[color] | BIT[shape]
            across = BIT["left"] if x <= TOUCH_GAP_PX else BIT["right"] if x >= far else 0
            down = BIT["roof"] if y <= TOUCH_GAP_PX else BIT["bottom"] if y >= far else 0
            if across or down:
                bits |= across | down | BIT["edge"] | (BIT["corner"] if across and down else 0)
            if scene.kind == "tower":
                bits |= _place(number, last)
            found.append(bits)
        seen.append(tuple(found))
    return tuple(seen)


def _place(number: int, last: int) -> int:
    names = {0: "base", 1: "second", 2: "third"}
    bits = BIT[names[number]] if number in names else 0
    if number == last:
        return bits | BIT["top"]
    return bits | (BIT["below_top"] if number == last - 1 else 0) | (BIT["middle"] if number else 0)


class Filter(NamedTuple):
    """Items whose bits under `mask` are `value`."""

    mask: int
    value: int

    def count(self, box: Sequence[int]) -> int:
        """Number of the box's items that match."""
        mask, value = self
        return len([1 for bits in box if bits & mask == value])

    def also(self, *names: str) -> "Filter":
        """Return the filter that also requires these properties; "-blue" requires the absence of one."""
        mask, value = self
        for name in names:
            bit = BIT[name.removeprefix("-")]
            mask |= bit
            value |= 0 if name.startswith("-") else bit
        return Filter(mask, value)


ANY = Filter(0, 0)


class Amount(NamedTuple):
    """The number of a box's items that match satisfies a comparison."""

    filter: Filter
    comparison: Comparison
    number: int

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the box fulfils it."""
        return compare[self.comparison](self.filter.count(box), self.number)


class Stack(NamedTuple):
    """A tower has blocks directly above one another that match these filters, the lowest first."""

    filters: tuple[Filter, ...]

    def count(self, box: BoxFacts) -> int:
        """Number of places in the tower where such blocks begin."""
        length = len(self.filters)
        return sum(
            all(bits & mask == value for bits, (mask, value) in zip(box[at : at + length], self.filters, strict=True))
            for at in range(len(box) - length + 1)
        )

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the tower has at least one such place."""
        return self.count(box) > 0


class Kinds(NamedTuple):
    """The number of different colours (or shapes, or sizes) of a box's items that match satisfies a comparison."""

    attribute: Literal["color", "shape", "size"]
    filter: Filter
    comparison: Comparison
    number: int

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the box fulfils it."""
        return compare[self.comparison](kinds(self.attribute, self.filter, box), self.number)


class Outnumber(NamedTuple):
    """A box has more items of one kind than of another; or as many, of each at least one."""

    more: Filter
    fewer: Filter
    is_equal: bool

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the box fulfils it."""
        more, fewer = self.more.count(box), self.fewer.count(box)
        return more == fewer > 0 if self.is_equal else more > fewer


class AllOf(NamedTuple):
    """Several conditions at once."""

    parts: tuple["Condition", ...]

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the box fulfils all of them."""
        return all(part.holds(box, compare) for part in self.parts)


class AnyOf(NamedTuple):
    """One of several conditions, or more of them."""

    parts: tuple["Condition", ...]

    def holds(self, box: BoxFacts, compare: dict[str, Callable[[int, int], bool]]) -> bool:
        """Whether the box fulfils one of them."""
        return any(part.holds(box, compare) for part in self.parts)


Condition = Amount | Stack | Kinds | Outnumber | AllOf | AnyOf


def kinds(attribute: str, chosen: Filter, box: Sequence[int]) -> int:
    """Number of different colours (shapes, sizes) among the items that match."""
    bits_of = ATTRIBUTES[attribute]
    return len({bits & bits_of for bits in box if bits & chosen.mask == chosen.value})


class Items(NamedTuple):
    """Number of items in the image that match."""

    filter: Filter

    def measure(self, facts: Facts, is_lenient: bool = False) -> int:
        """The number."""
        return sum(self.filter.count(box) for box in facts)


class Stacks(NamedTuple):
    """Number of places in all towers where such a sequence of blocks begins."""

    stack: Stack

    def measure(self, facts: Facts, is_lenient: bool = False) -> int:
        """The number."""
        return sum(self.stack.count(box) for box in facts)


class Boxes(NamedTuple):
    """Number of boxes that fulfil a condition."""

    condition: Condition

    def measure(self, facts: Facts, is_lenient: bool = False) -> int:
        """The number; `is_lenient` reads bare numbers within the condition as "at least"."""
        compare = _COMPARE_LENIENT if is_lenient else _COMPARE
        return sum(self.condition.holds(box, compare) for box in facts)


class Alike(NamedTuple):
    """Number of boxes in the largest group that agrees in the base's or top's colour, all colours, or the count."""

    what: Literal["base", "top", "colors", "count"]

    def measure(self, facts: Facts, is_lenient: bool = False) -> int:
        """The number."""
        color = ATTRIBUTES["color"]
        if self.what == "count":
            keys = Counter(len(box) for box in facts)
        elif self.what == "colors":
            keys = Counter(box[0] & color for box in facts if kinds("color", ANY, box) == 1)
        else:
            place = 0 if self.what == "base" else -1
            keys = Counter(box[place] & color for box in facts)
        return max(keys.values(), default=0)


class Touching(NamedTuple):
    """Number of different colours among the items of the image that match."""

    filter: Filter

    def measure(self, facts: Facts, is_lenient: bool = False) -> int:
        """The number."""
        return kinds("color", self.filter, [bits for box in facts for bits in box])


Measure = Items | Stacks | Boxes | Alike | Touching


class Claim(NamedTuple):
    """A measure, and the comparison that its value must satisfy."""

    measure: Measure
    comparison: Comparison
    number: int


Meaning = tuple[Claim, ...]
"""Claims that must all hold."""


def is_true(meaning: Meaning, facts: Facts, is_lenient: bool = False) -> bool:
    """Whether the image makes a statement true."""
    compare = _COMPARE_LENIENT if is_lenient else _COMPARE
    return all(compare[comparison](measure.measure(facts, is_lenient), k) for measure, comparison, k in meaning)


def is_doubtful(meaning: Meaning, facts: Facts) -> bool:
    """Whether the truth depends on reading a bare number as "exactly" or as "at least"."""
    return is_true(meaning, facts) != is_true(meaning, facts, is_lenient=True)
