"""What both languages of the swap rules share: what a swap is, and colours, numbers and sizes by their meaning.

A word is looked up by its meaning because another caption of the same image may say it in the other language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chiasm.core.random import counter_seed

Kind = Literal["attribute", "count", "relation", "order"]
KINDS: tuple[Kind, ...] = ("attribute", "count", "relation", "order")


@dataclass(frozen=True, slots=True)
class Swap:
    """A caption of which one thing was changed.

    Attributes:
        kind: what was changed.
        text: the changed sentence.
        is_sure: False where it may say the same as before ("a black dog and a white dog" with the colours exchanged),
            so that it serves only where the truth is known otherwise.
        new: the word put in, in lower case, where another caption that has it makes the swap doubtful.
    """

    kind: Kind
    text: str
    is_sure: bool = True
    new: str = ""


COLORS: dict[str, tuple[str, str]] = {
    "red": ("red", "红"),
    "green": ("green", "绿"),
    "blue": ("blue", "蓝"),
    "yellow": ("yellow", "黄"),
    "purple": ("purple", "紫"),
    "cyan": ("cyan", "青"),
    "black": ("black", "黑"),
    "white": ("white", "白"),
    "brown": ("brown", "棕"),
    "grey": ("grey", "灰"),
    "pink": ("pink", "粉"),
    "orange": ("orange", "橙"),
}
"""Meaning -> word in English and character in Chinese."""
COLOR_SPELLINGS: dict[str, str] = {"gray": "grey", "tan": "brown", "golden": "yellow", "褐": "brown", "金": "yellow"}
"""Other words of these meanings, which are read and never written."""
NUMBERS: dict[str, tuple[str, str]] = {
    "1": ("one", "一"),
    "2": ("two", "两"),
    "3": ("three", "三"),
    "4": ("four", "四"),
    "5": ("five", "五"),
    "6": ("six", "六"),
}
NUMBER_SPELLINGS: dict[str, str] = {"couple": "2", "pair": "2", "both": "2", "twin": "2", "trio": "3", "二": "2"}
NUMBER_SPELLINGS |= {"双": "2", "俩": "2", "对": "2", "1": "1", "2": "2", "3": "3", "4": "4", "5": "5", "6": "6"}
Table = dict[str, tuple[str, str]]
PHOTO_COLORS: Table = {name: COLORS[name] for name in COLORS if name != "cyan"}
"""Colours that are put in; hardly anybody writes "cyan", so that it would give a swap away."""
COAT_COLORS: Table = {name: COLORS[name] for name in ("black", "white", "brown", "grey", "yellow")}
"""Colours of animals and of hair, for the same reason."""


def word_set(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


def meanings(table: Table, spellings: dict[str, str]) -> dict[str, str]:
    """Word in either language -> its meaning."""
    return {word: meaning for meaning, words in table.items() for word in words} | spellings


COLOR_OF = meanings(COLORS, COLOR_SPELLINGS)
NUMBER_OF = meanings(NUMBERS, NUMBER_SPELLINGS)


def another(table: Table, own: str, mentioned: Iterable[str], text: str) -> str | None:
    """A meaning that the text does not mention, the same in every process; None where it mentions all."""
    left = [one for one in table if one != own and one not in set(mentioned)]
    return left[counter_seed("swap", text, own) % len(left)] if left else None


def put(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    """Replace parts of a text: (start, end, new words), which do not overlap."""
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text
