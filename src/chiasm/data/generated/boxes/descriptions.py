"""Descriptions of a box or tower in words, each with its meaning.

A description is drawn so that it is true of a given box; `boxes.statements` makes statements of it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from chiasm.data.generated.boxes.phrasing import Speaker, color_of, name_of, plural, touched
from chiasm.data.generated.boxes.render import COLORS, SHAPES
from chiasm.data.generated.boxes.semantics import (
    ANY,
    ATTRIBUTES,
    BIT,
    AllOf,
    Amount,
    AnyOf,
    BoxFacts,
    Condition,
    Filter,
    Kinds,
    Outnumber,
    Stack,
    kinds,
)


class Described(NamedTuple):
    """A description of a box or tower: the words after "with", and the condition under which they are true."""

    words: str
    condition: Condition


def _has(name: str) -> Amount:
    return Amount(ANY.also(*name.split()), ">=", 1)


def place(say: Speaker, box: BoxFacts) -> Described:
    """A block of a colour at the base, at the top, in the middle, or second from the base."""
    spot = say.pick("base", "base", "top", "top", "second", "third", "below_top", "middle")
    bit = BIT[spot]
    there = [bits for bits in box if bits & bit]
    if not there:
        spot, there = "base", [box[0]]
    color = color_of(there[0])
    block = say.thing()
    article = "" if say.chance(0.08) else "a "
    words = {
        "base": (
            f"{article}{color} {block} {say.pick('at', 'at', 'as', 'on')} the {say.pick('base', 'base', 'bottom')}",
            f"{article}{color} {block} at base",
            f"a {color} base",
            f"{article}{color} base block",
            f"a base of {color} block",
        ),
        "top": (
            f"{article}{color} {block} {say.pick('at', 'at', 'at', 'on', 'as')} the top",
            f"{article}{color} {block} at the top",
            f"{article}{color} {block} on top",
            f"a {color} top",
            f"{article}{color} {block} as a top block",
        ),
        "second": (f"a {color} second block", f"second {color} block", f"a {color} {block} second from the base"),
        "third": (f"a {color} third block", f"a {color} {block} at the third place from the bottom"),
        "below_top": (f"a {color} {block} below the top block", f"a {color} {block} beneath the {block} on top"),
        "middle": (f"a {color} {block} in the middle", f"a {color} {block} in the middle of it"),
    }[spot]
    common = words[: 1 if say.chance(0.6) else None]
    return Described(say.pick(*common), _has(f"{color} {spot}"))


def height(say: Speaker, box: BoxFacts) -> Described:
    """The number of blocks of a tower."""
    amount = say.how_many(ANY, box)
    if amount.number == 1 and amount.comparison == ">=":
        amount = Amount(ANY, "==", len(box))
    if amount == (ANY, "==", 1) and say.chance(0.2):
        return Described(say.pick("a single ", "single ", "only a single ") + say.thing(), amount)
    return Described(say.some(amount.comparison, amount.number, say.thing()), amount)


def order(say: Speaker, box: BoxFacts) -> Described:
    """A block on another, between others, or several of one colour in sequence."""
    if len(box) == 1:
        return place(say, box)
    start = int(say.rng.random() * (len(box) - 1))
    low, high = color_of(box[start]), color_of(box[start + 1])
    if len(box) > 2 and say.chance(0.12):
        start = int(say.rng.random() * (len(box) - 2))
        low, mid, high = (color_of(bits) for bits in box[start : start + 3])
        if low == high:
            block = say.thing()
            words = f"a {mid} {block} {say.pick('in between', 'between')} {say.number(2)} {low} {plural(block)}"
            return Described(words, Stack((ANY.also(low), ANY.also(mid), ANY.also(low))))
        low, high = mid, high
    if low == high and say.chance(0.6):
        count = ANY.also(low).count(box)
        joined = say.pick("stacked together", "stacked together", "attached with each other", "touching each other")
        return Described(
            f"{say.number(count)} {low} {plural(say.thing())} {joined}",
            AllOf((Amount(ANY.also(low), "bare", count), Stack((ANY.also(low),) * count))),
        )
    block = say.thing()
    if say.chance(0.65):
        over = say.pick("above", "over", "on", "on top of", "right on top of")
        words = f"a {high} {block} {over} a {low} {block}"
    else:
        words = f"a {low} {block} {say.pick('below', 'bellow', 'under', 'beneath')} a {high} {block}"
    return Described(words, Stack((ANY.also(low), ANY.also(high))))


def colors(say: Speaker, box: BoxFacts) -> Described:
    """The colours, or their number."""
    shown = [name for name in COLORS if any(bits & BIT[name] for bits in box)]
    say.rng.shuffle(shown)
    number, count, things = len(shown), len(box), plural(say.thing())
    if number == 1:
        return _one_color(say, shown[0], count, things)
    if number == 2 and say.chance(0.65):
        return _two_colors(say, f"{shown[0]} and {shown[1]}", AllOf(tuple(map(_has, shown))), box)
    every = "all " if number == 3 and say.chance(0.4) else ""
    total = f"{say.number(count)} " if count > 2 and say.chance(0.5) else ""
    words = say.pick(
        f"{every}{say.number(number)} different {say.pick('colors', 'colors', 'color')}",
        f"{every or 'only '}{say.number(number)} colors",
        f"{every}{say.number(number)} different colors",
    )
    many = Kinds("color", ANY, "==", number)
    return Described(f"{total}{things} of {words}", AllOf((many, Amount(ANY, "bare", count))) if total else many)


def _one_color(say: Speaker, color: str, count: int, things: str) -> Described:
    # A single block is hardly described as having "the same" colour.
    if count > 1 and say.chance(0.25):
        words = say.pick(f"{things} of the same color", f"only same {things} in color")
        return Described(words, AllOf((Kinds("color", ANY, "==", 1), Amount(ANY, ">=", 2))))
    if say.chance(0.25):
        return Described(say.pick("only one color", "a single color"), Kinds("color", ANY, "==", 1))
    words = say.pick(
        f"only {color} {things}", f"only {color} {things}", f"{things} of only {color} color",
        f"{things} of {color} color only", f"only {color} color {things}",
    )  # fmt: skip
    return Described(words, AllOf((_has(color), Kinds("color", ANY, "==", 1))))


def _two_colors(say: Speaker, names: str, both: AllOf, box: BoxFacts) -> Described:
    things = plural(say.thing())
    only = AllOf((*both.parts, Kinds("color", ANY, "==", 2)))
    if say.chance(0.6):
        return Described(say.pick(f"only {names} {things}", f"{things} of only {names} color"), only)
    number = say.number(len(box))
    words = say.pick(f"{number} {things} of only {names} color", f"only {number} {names} {things}")
    return Described(words, AllOf((only, Amount(ANY, "==", len(box)))))


def listed(say: Speaker, box: BoxFacts) -> Described:
    """One to three kinds of item with their numbers: "a black square and at least two circles"."""
    most = min(len(box), 1 if say.chance(0.35) else 2 if say.chance(0.85) else 3)
    words, parts, known = [], [], list[Filter]()
    for bits in say.rng.sample(box, most):
        name, chosen = say.item(bits)
        # "a black item and a black circle" would be ambiguous: one object or two.
        if any(_may_coincide(chosen, other) for other in known):
            continue
        known.append(chosen)
        part = say.how_many(chosen, box)
        words.append(say.some(part.comparison, part.number, name))
        parts.append(part)
    items = " and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]} and {words[2]}"
    end = " in it" if say.chance(0.04) else ""
    return Described(items + end, parts[0] if len(parts) == 1 else AllOf(tuple(parts)))


def _may_coincide(a: Filter, b: Filter) -> bool:
    """Whether an item can match both."""
    return not any(a.mask & bits and b.mask & bits and a.value & bits != b.value & bits for bits in ATTRIBUTES.values())


def part_of(say: Speaker, box: BoxFacts) -> Described:
    """The number of items, and a property of some of them: "3 items of which 2 are yellow"."""
    whole = Amount(ANY, "bare" if say.chance(0.6) else "==", len(box))
    if len(box) > 2 and say.chance(0.2):
        whole = Amount(ANY, "<=", len(box))
    noun = say.thing()
    bits = box[int(say.rng.random() * len(box))]
    color = color_of(bits)
    count = ANY.also(color).count(box)
    items = say.some(whole.comparison, whole.number, noun)
    if whole.comparison == "<=" and say.chance(0.7):
        items = f"{say.number(len(box))} {plural(noun)} at most"
    number = say.number(count)
    some = Amount(ANY.also(color), "bare", count)
    if len(box) == 1:
        items = say.some("==" if whole.comparison == "==" else "bare", 1, noun)
        if say.chance(0.25):
            other = say.pick(*(name for name in COLORS if name != color))
            return Described(f"{items} that is not {other}", AllOf((whole, Amount(ANY.also(other), "==", 0))))
        end = say.pick(f"which is {color}", f"that is {color}", f"and it is {color}", f"which is of {color} color",
                       f"and the color is {color}", f"which is {color} in color")  # fmt: skip
        return Described(f"{items} {end}", AllOf((whole, _has(color))))
    are = "is" if count == 1 else "are"
    ends = [
        f"of which {number} {are} {color}",
        f"of which at least {number} {are} {color}",
        f"and the {number} {plural(noun) if count > 1 else noun} {are} {color}",
        f"where {number} of the {plural(noun)} {are} {color}",
    ]
    meanings: list[Condition] = [some, Amount(ANY.also(color), ">=", count), some, some]
    if say.kind == "scatter":
        shape = name_of(bits, SHAPES)
        ends += [f"one of which is a {color} {shape}", f"of which one is a {shape}", f"including {color} {shape}s"]
        meanings += [_has(f"{color} {shape}"), _has(shape), _has(f"{color} {shape}")]
    chosen = int(say.rng.random() * len(ends))
    return Described(f"{items} {ends[chosen]}", AllOf((whole, meanings[chosen])))


def compared(say: Speaker, box: BoxFacts) -> Described:
    """The same or a larger number of one colour or shape than of another."""
    names = list(COLORS if say.kind == "tower" or say.chance(0.7) else SHAPES)
    say.rng.shuffle(names)
    counts = sorted(((ANY.also(name).count(box), name) for name in names[:2]), reverse=True)
    (many, first), (few, second) = counts
    is_shape = first in SHAPES
    thing = "" if is_shape else " " + plural(say.thing())
    more, less = (plural(first), plural(second)) if is_shape else (first, second)
    if many == few and many:
        return Described(
            f"the same number of {more} and {less}{thing}", Outnumber(ANY.also(first), ANY.also(second), True)
        )
    words = f"more {more}{thing} than {less}{thing}" if say.chance(0.5) else f"less {less}{thing} than {more}{thing}"
    return Described(words, Outnumber(ANY.also(first), ANY.also(second), False)) if many else colors(say, box)


def alike(say: Speaker, box: BoxFacts) -> Described:
    """Items of the same or of different shapes, sizes or colours; or one colour or the other."""
    count, things = len(box), plural(say.thing())
    if count < 2:
        names = list(COLORS)
        say.rng.shuffle(names)
        either: tuple[Condition, ...] = tuple(Amount(ANY.also(name), ">=", 1) for name in names[:2])
        return Described(f"either a {names[0]} or a {names[1]} {say.thing()}", AnyOf(either))
    attribute: Literal["color", "shape", "size"] = "color"
    if say.kind == "scatter":
        attribute = ("shape", "color", "size")[int(say.rng.random() * 3)]
    number = kinds(attribute, ANY, box)
    items = f"{say.pick('only ', 'exactly ', '')}{say.number(count)} {things}"
    whole = Amount(ANY, "bare", count)
    if number == 1:
        return Described(f"{items} of the same {attribute}", AllOf((whole, Kinds(attribute, ANY, "==", 1))))
    if number == count:
        return Described(f"{items} of different {attribute}s", AllOf((whole, Kinds(attribute, ANY, "==", count))))
    shown = Kinds(attribute, ANY, "==", number)
    return Described(f"{items} of {say.number(number)} different {attribute}s", AllOf((whole, shown)))


def by_wall(say: Speaker, box: BoxFacts) -> Described:
    """An item that touches a wall; in a tower also the block on it."""
    near = [bits for bits in box if bits & BIT["edge"]]
    if not near:
        return listed(say, box)
    bits = near[int(say.rng.random() * len(near))]
    name, chosen = say.item(bits)
    wall, touching = touched(say, bits)
    condition: Condition = Amount(chosen.also(wall), ">=", 1)
    words = f"a {name} {touching}"
    if say.kind == "tower" and len(box) > 1 and say.chance(0.6):
        color, above = color_of(bits), color_of(box[1])
        thing = say.pick(say.thing(), say.thing(), "one")
        words = f"a {color} {say.thing()} touching the {say.pick('wall', 'wall', 'base')} and a {above} {thing}"
        words += say.pick(" on top of it", " on top of it", " right on top of it", " directly on top of it")
        condition = Stack((ANY.also(color, "base"), ANY.also(above)))
    return Described(words, condition)


Describe = Callable[[Speaker, BoxFacts], Described]
TOWER_DESCRIPTIONS: dict[Describe, float] = {
    place: 5, height: 2, order: 3, colors: 1.5, listed: 2, part_of: 1.5, compared: 0.15, alike: 0.4, by_wall: 0.2,
}  # fmt: skip
BOX_DESCRIPTIONS: dict[Describe, float] = {
    listed: 6, colors: 2, height: 1, part_of: 1.5, compared: 0.5, alike: 0.7, by_wall: 1,
}  # fmt: skip
TOWER_AS_BOX_DESCRIPTIONS: dict[Describe, float] = {
    place: 1.5, listed: 2, colors: 3, height: 1, part_of: 3, order: 1, compared: 0.5, alike: 1, by_wall: 1.5,
}  # fmt: skip
"""Descriptions of towers by speakers who call them boxes with items."""
