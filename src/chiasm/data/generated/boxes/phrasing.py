"""Wordings of statements about boxes: numbers, names of items and walls, typing errors.

The wordings, and their spelling, are those of the published corpus (Suhr et al. 2017).
"""

import random
from collections.abc import Iterable
from typing import Literal

from chiasm.data.generated.boxes.render import COLORS, SHAPES, SIZES
from chiasm.data.generated.boxes.semantics import ANY, BIT, Amount, BoxFacts, Comparison, Filter

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MISSPELT = {
    "at least": ("atleast", "at leats", "at lest"),
    "below": ("bellow", "bellow"),
    "there is a ": ("there isa ", "there is as ", "there is "),
    "a box": ("abox",),
    "a tower": ("atower",),
    "yellow": ("yelow",),
    "items": ("item",),
    "objects": ("object",),
    "color": ("colour", "colors"),
    "the base": ("the bae", "base"),
    "all ": ("ll ",),
    "with": ("wih",),
    "blocks": ("block",),
    "beside": ("besides",),
}  # fmt: skip
_MISSPELT_SHARE = 0.04


class Speaker:
    """Draws words for consecutive statements from one stream of random numbers."""

    def __init__(self, rng: random.Random, kind: Literal["tower", "scatter"]) -> None:
        self.rng, self.kind = rng, kind
        self.is_digital = rng.random() < 0.4
        """Whether numbers are written as digits, as some annotators do."""
        self.says_tower = kind == "tower" and rng.random() < 0.72
        """Whether towers and blocks are called so, or boxes and items, as some annotators do."""

    def pick(self, *options: str) -> str:
        """Draw one of the wordings; a repeated one is more probable."""
        return options[int(self.rng.random() * len(options))]

    def chance(self, share: float) -> bool:
        """True with a probability."""
        return self.rng.random() < share

    def number(self, number: int) -> str:
        """A number as a word or a digit."""
        return str(number) if self.is_digital != self.chance(0.1) else NUMBERS[number]

    def amount(self, comparison: Comparison, number: int) -> str:
        """Words for an amount: "exactly two", "at least 1", "a", "no", "less than three"."""
        if number == 0:
            return "no"
        if comparison == "bare":
            return self.number(number)
        if comparison == "==":
            return self.pick("exactly", "exactly", "only", "exactly", "only", "just") + " " + self.number(number)
        if comparison == ">=":
            if number == 1 and self.chance(0.7):
                return "a"
            if number > 1 and self.chance(0.15):
                return "more than " + self.number(number - 1)
            return "at least " + self.number(number)
        return self.pick("at most ", "not more than ") + self.number(number)

    def some(self, comparison: Comparison, number: int, noun: str) -> str:
        """Words for an amount of something: "exactly two blue blocks"; `noun` is in the singular."""
        return f"{self.amount(comparison, number)} {noun if number < 2 else plural(noun)}"

    def thing(self) -> str:
        """The noun for an item without its shape."""
        if self.says_tower:
            return self.pick(*["block"] * 12, "item", "object")
        return self.pick("item", "item", "item", "object")

    def subject(self) -> str:
        """The noun for a container of items: a tower or a box."""
        return "tower" if self.says_tower else self.pick(*["box"] * 6, "grey box", "grey square")

    def item(self, bits: int, must_tell: bool = True) -> tuple[str, Filter]:
        """Name an item by some of its properties; with `must_tell`, by at least one."""
        size, color, shape = (name_of(bits, names) for names in (SIZES, COLORS, SHAPES))
        is_strewn = self.kind == "scatter"
        words, chosen = [], ANY
        tells_shape = is_strewn and self.chance(0.6)
        tells_color = self.chance(0.8) or (must_tell and not tells_shape)
        if is_strewn and self.chance(0.05):
            words.append("big" if size == "big" and self.chance(0.8) else "large" if size == "big" else size)
            chosen = chosen.also(size)
        if tells_color:
            words.append(color + (" color" if self.chance(0.02) else ""))
            chosen = chosen.also(color)
        words.append(shape if tells_shape else self.thing())
        return " ".join(words), chosen.also(shape) if tells_shape else chosen

    def how_many(self, chosen: Filter, box: BoxFacts) -> Amount:
        """Draw an amount of matching items that is true of the box."""
        count = chosen.count(box)
        draw = self.rng.random()
        if draw < 0.5:
            return Amount(chosen, ">=", 1) if count == 1 or self.chance(0.25) else Amount(chosen, "bare", count)
        if draw < 0.75:
            return Amount(chosen, "==", count)
        if draw < 0.97:
            return Amount(chosen, ">=", 1 + int(self.rng.random() * count))
        return Amount(chosen, "<=", min(count + int(self.rng.random() * 2), 7))

    def misspelt(self, text: str) -> str:
        """With a small probability, add a typing error."""
        if not self.chance(_MISSPELT_SHARE):
            return text
        right = self.pick(*_MISSPELT)
        return text.replace(right, self.pick(*_MISSPELT[right]), 1) if right in text else text


def plural(noun: str) -> str:
    """Return the plural of a noun phrase, the noun standing last: "grey box" -> "grey boxes"."""
    return noun + ("es" if noun.endswith("box") else "s")


def name_of(bits: int, names: Iterable[str]) -> str:
    """Return which of the properties an item has."""
    return next(name for name in names if bits & BIT[name])


def color_of(bits: int) -> str:
    """Return an item's colour."""
    return name_of(bits, COLORS)


def touched(say: Speaker, bits: int) -> tuple[str, str]:
    """Choose a wall or corner that an item touches, or "any wall" for every item: its property, and words for it."""
    touches = say.pick("touching", "touching", "closely touching")
    fitting = ["edge", "edge", "edge", *(wall for wall in (*WALL_WORDS,) if wall != "edge" and bits & BIT[wall])]
    if bits & BIT["corner"]:
        fitting += ["corner"] * 4
    wall = say.pick(*fitting)
    return wall, f"{touches} {say.pick(*WALL_WORDS[wall])}"


WALL_WORDS: dict[str, tuple[str, ...]] = {
    "edge": (
        "the edge", "the edge", "the edge", "an edge", "any edge", "the wall", "the wall", "a wall of a box",
        "the side", "the side of the box", "the edge of the square",
    ),
    "bottom": (
        "the bottom of a box", "the bottom of a box", "the base", "the base", "the bottom base", "the bottom edge",
        "the bottom wall",
    ),
    "right": ("right wall of a box", "right wall of a box", "the right wall", "the right side"),
    "left": ("left wall of a box", "the left wall", "the left side"),
    "roof": ("the roof of a box", "the top wall", "the top edge"),
    "corner": ("a corner", "a corner of a box", "the corner", "a corner", "the corner of the box"),
}  # fmt: skip
"""Property -> words for the wall or corner that is touched."""
