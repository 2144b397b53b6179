"""Which objects a sentence names: a vocabulary of the ways to say them, and the longest match.

Words are runs of letters without case, cut at spaces, hyphens and apostrophes; each Chinese character is a word of its
own, since Chinese is written without spaces.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+")


def words_of(text: str) -> list[str]:
    """The words of a text, and each of its Chinese characters, without case (NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class Vocabulary:
    """The objects that can be asked for, with every way to say each.

    Args:
        forms: a way to say an object ("dogs", "puppy", "traffic lights") -> the object ("dog"). An object itself is a
            form only where it is listed.
        groups: objects of which one may be said for another ("man", "person"). Where an image has one of a group,
            another of it is neither a safe negative nor surely wrong.
    """

    forms: Mapping[str, str]
    groups: tuple[frozenset[str], ...] = ()
    _by_first: dict[str, list[tuple[tuple[str, ...], str]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for form, name in self.forms.items():
            if words := tuple(words_of(form)):
                by_first.setdefault(words[0], []).append((words, name))
        for entries in by_first.values():
            entries.sort(key=lambda entry: -len(entry[0]))
        object.__setattr__(self, "_by_first", by_first)

    def mentions(self, text: str) -> list[str]:
        """The object of each mention, in the order of the text; of overlapping forms the longest counts alone.

        An object that is said twice stands twice.
        """
        words, found, place = words_of(text), [], 0
        while place < len(words):
            for form, name in self._by_first.get(words[place], ()):
                if tuple(words[place : place + len(form)]) == form:
                    found.append(name)
                    place += len(form)
                    break
            else:
                place += 1
        return found

    def with_related(self, objects: Collection[str]) -> set[str]:
        """These objects and all that share a group with one of them."""
        return related(objects, self.groups)


def related(objects: Collection[str], groups: Collection[Collection[str]]) -> set[str]:
    """`objects` and all that share one of `groups` with one of them."""
    own = set(objects)
    return own.union(*(group for group in groups if not own.isdisjoint(group)))
