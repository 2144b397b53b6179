"""Swaps in English captions, by rule and without a parser: few words are known, and what is not known stays.

Kept narrow on purpose. A rule that is wrong about a sentence makes a true one a negative, which teaches the opposite
of what it should; a rule that finds nothing costs only a negative.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise

from chiasm.data.hard_captions.lexicon import (
    COAT_COLORS,
    COLOR_OF,
    COLORS,
    NUMBERS,
    PHOTO_COLORS,
    Swap,
    another,
    put,
    word_set,
)

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_OPPOSITE_SIZE = {
    "small": "large", "little": "big", "tiny": "huge", "large": "small", "big": "little", "huge": "tiny",
    "young": "old", "old": "young", "tall": "short",
}  # fmt: skip
_COATS = word_set("dog puppy puppie cat horse cow bull sheep goat bird hair haired fur")
_YOUTH = word_set("child kid boy girl baby toddler children puppy puppie infant babie")
"""Nouns whose size is never swapped, because the result ("an old baby") is implausible."""
_JOINS = word_set("and or but nor")
_FUNCTION = word_set(
    "a an the and or but of in on at to with by for from is are was were be as while that which who one "
    "ones each other both his her its their it he she they up down off into onto over under"
)
_OPPOSITE_PLACE = {
    "in front of": "behind", "behind": "in front of", "above": "below", "below": "above", "over": "under",
    "under": "over", "on top of": "underneath", "underneath": "on top of", "beneath": "above", "inside": "outside",
    "outside": "inside", "into": "out of", "out of": "into", "towards": "away from", "toward": "away from",
    "away from": "towards",
}  # fmt: skip
_PLACE = re.compile(r"\b(" + "|".join(sorted(_OPPOSITE_PLACE, key=len, reverse=True)) + r")\b", re.I)
_NO_PLACE = re.compile(
    r"\b(all|hand|bends?|bending|bent|leans?|leaning|turn(s|ed|ing)?|is|are|from|fights?|fighting)\s+over\b", re.I
)
"""Where "over" is no place: "all over", "bent over", "is over"."""
_SIDE = re.compile(r"\b(left|right|top|bottom)\b(?=\s*(?:$|[,.;]|of\b|side\b|corner\b|left\b|right\b))", re.I)
_OPPOSITE_SIDE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_LIMB = re.compile(r"\b(his|her|its|their)\s+(left|right)\b", re.I)
_NOUNS = (
    "man men woman women boy boys girl girls child children kid kids baby babies toddler person people lady guy player "
    "players dog dogs puppy cat cats horse horses bird birds cow bull sheep goat ball frisbee stick toy car truck bus "
    "bike bicycle motorcycle boat raft kayak skateboard surfboard snowboard bench chair table swing slide fence wall "
    "tree rock log bridge building pool water river lake ocean fountain wave waves snow sand grass hat bag umbrella "
    "camera guitar microphone rope horse hurdle ramp rail pole statue circle square triangle circles squares triangles"
)
_NOUN_PHRASE = re.compile(
    r"\b(?P<start>a|an|the|two|three|four|five|another)\s+(?P<rest>(?:(?!(?:and|of|in|on|with)\b)[a-z-]+\s+){0,2}?)"
    rf"(?P<noun>{'|'.join(sorted(_NOUNS.split(), key=len, reverse=True))})\b(?![-']| ')",
    re.I,
)
_AFTER_PHRASE = re.compile(
    r"\s*(?:$|[,.;!?]|\b(?:is|are|was|were|in|on|at|by|with|while|as|and|that|which|who|through|from|for|to|into|onto|near|"
    r"over|under|behind|during|outside|inside|top|bottom|left|right|center|\w+ing)\b)",
    re.I,
)
"""What may follow the second noun phrase: after "a grass" a "field" would show that the phrase was longer."""
_ARTICLE = re.compile(rf"\b([Aa])n?(?=\s+(?:{'|'.join([*COLOR_OF, *_OPPOSITE_SIZE])})\b)")
_SYMMETRIC = word_set(
    "and or with next near beside by between together opposite alongside along around other another like "
    "than as play plays playing played wrestle wrestles wrestling fight fights fighting race races racing "
    "meet meets meeting kiss kisses kissing hug hugs hugging face faces facing touch touches touching of "
    "at"
)
"""Words after which "A ... B" may say the same as "B ... A"."""
_OWNERS = word_set("his her its their")
_MOST_BETWEEN = 5
"""Words between two noun phrases that still belong together."""


def english_swaps(text: str, colors: frozenset[str], numbers: frozenset[str]) -> Iterator[Swap]:
    """Swaps of one caption.

    Args:
        text: the caption.
        colors: colours (keys of `COLORS`) that any caption of the image mentions.
        numbers: numbers (keys of `NUMBERS`) likewise.
    """
    words = [(match[0].lower(), match.start(), match.end()) for match in _WORD.finditer(text)]
    yield from (_with_articles(swap) for swap in (*_colors(text, words, colors), *_sizes(text, words)))
    yield from _counts(text, words, numbers)
    yield from _places(text)
    yield from _orders(text)


def _with_articles(swap: Swap) -> Swap:
    """The article as the new word needs it; "a old man" would tell the swap."""
    return replace(
        swap,
        text=_ARTICLE.sub(
            lambda one: one[1] + ("n" if swap.text[one.end() :].lstrip()[0] in "aeiou" else ""), swap.text
        ),
    )


Words = list[tuple[str, int, int]]


def _like(word: str, model: str) -> str:
    """The word with a capital where the one whose place it takes has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def _head(text: str, words: Words, number: int) -> str:
    """The noun that an attribute belongs to, in the singular; "" where it has none of its own.

    "black" of "a black and white dog" has none, and neither has "white": exchanged, they say the same.
    """
    group = COLOR_OF if words[number][0] in COLOR_OF else _OPPOSITE_SIZE
    before = [word for word, _, _ in words[max(0, number - 2) : number]]
    if len(before) == 2 and before[1] in _JOINS and before[0] in group:
        return ""
    for place in range(number + 1, len(words)):
        word, start, _ = words[place]
        if text[words[place - 1][2] : start].strip() or word in _FUNCTION or word in group:
            return ""
        if word not in COLOR_OF and word not in _OPPOSITE_SIZE:
            return word.removesuffix("s")
    return ""


def _colors(text: str, words: Words, mentioned: frozenset[str]) -> Iterator[Swap]:
    found = [(number, COLOR_OF[word]) for number, (word, _, _) in enumerate(words) if word in COLOR_OF]
    found = [(number, color) for number, color in found if _head(text, words, number)]
    for (one, first), (two, second) in combinations(found, 2):
        if first != second:
            is_sure = _head(text, words, one) != _head(text, words, two)
            yield Swap("attribute", _exchanged(text, words, one, two), is_sure)
    for number, color in found:
        table = COAT_COLORS if _head(text, words, number) in _COATS else PHOTO_COLORS
        new = another(table, color, mentioned, text)
        if new is not None:
            _, start, end = words[number]
            yield Swap("attribute", put(text, [(start, end, _like(COLORS[new][0], text[start:end]))]))


def _sizes(text: str, words: Words) -> Iterator[Swap]:
    found = [number for number, (word, _, _) in enumerate(words) if word in _OPPOSITE_SIZE]
    for number in found:
        head = _head(text, words, number)
        if not head or head in _YOUTH:
            continue
        word, start, end = words[number]
        new = _OPPOSITE_SIZE[word]
        yield Swap("attribute", put(text, [(start, end, _like(new, text[start:end]))]), new=new)


def _counts(text: str, words: Words, mentioned: frozenset[str]) -> Iterator[Swap]:
    written = {english: meaning for meaning, (english, _) in NUMBERS.items() if meaning != "1"}
    found = []
    for number, (word, _, _) in enumerate(words[:-1]):
        if word in written and words[number + 1][0] not in _FUNCTION:
            found.append((number, written[word]))
    for (one, first), (two, second) in combinations(found, 2):
        if first != second:
            yield Swap("count", _exchanged(text, words, one, two), words[one + 1][0] != words[two + 1][0])
    for number, count in found:
        new = another({key: NUMBERS[key] for key in NUMBERS if key != "1"}, count, mentioned, text)
        if new is not None:
            _, start, end = words[number]
            yield Swap("count", put(text, [(start, end, _like(NUMBERS[new][0], text[start:end]))]))


def _exchanged(text: str, words: Words, one: int, two: int) -> str:
    (_, start, end), (_, other_start, other_end) = words[one], words[two]
    first, second = text[start:end], text[other_start:other_end]
    return put(
        text, [(start, end, _like(second.lower(), first)), (other_start, other_end, _like(first.lower(), second))]
    )


def _places(text: str) -> Iterator[Swap]:
    for match in _PLACE.finditer(text):
        if match[1].lower() == "over" and any(no.end() == match.end() for no in _NO_PLACE.finditer(text)):
            continue
        if text[: match.start()].lower().endswith("from "):  # "from behind": a place that something comes out of
            continue
        new = _OPPOSITE_PLACE[match[1].lower()]
        yield Swap("relation", put(text, [(*match.span(1), _like(new, match[1]))]), new=new)
    for match in _SIDE.finditer(text):
        if text[: match.start()].lower().endswith(("on ", "in ")):  # "on top of" is a place of its own
            continue
        new = _OPPOSITE_SIDE[match[1].lower()]
        yield Swap("relation", put(text, [(*match.span(1), _like(new, match[1]))]))
    for match in _LIMB.finditer(text):
        yield Swap("relation", put(text, [(*match.span(2), _OPPOSITE_SIDE[match[2].lower()])]))


def _orders(text: str) -> Iterator[Swap]:
    """Neighbouring noun phrases in each other's place, unless the words between them say nothing of an order."""
    phrases = list(_NOUN_PHRASE.finditer(text))
    for one, two in pairwise(phrases):
        between = text[one.end() : two.start()]
        words = [word.lower() for word in _WORD.findall(between)]
        named = [(match["rest"] + match["noun"]).lower() for match in (one, two)]
        if not words or len(words) > _MOST_BETWEEN or _SYMMETRIC & set(words) or named[0] == named[1]:
            continue
        if words[-1] in _OWNERS or not _AFTER_PHRASE.match(text, two.end()):
            continue
        first, second = one[0], two[0]
        changes = [
            (one.start(), one.end(), _like(second[:1].lower() + second[1:], first)),
            (two.start(), two.end(), _like(first[:1].lower() + first[1:], second)),
        ]
        yield Swap("order", put(text, changes), is_sure=not re.search("[,;.]", between))
