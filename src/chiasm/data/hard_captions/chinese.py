"""Swaps in Chinese captions, by rule: as narrow as those in English, and for the same reason.

A single character is part of many words (白天 is the day, not a white sky), so colours count where 色 follows or one of
a few nouns, and numbers where a measure word follows.
"""

import re
from collections.abc import Iterator
from itertools import combinations

from chiasm.data.hard_captions.lexicon import (
    COAT_COLORS,
    COLOR_OF,
    COLORS,
    NUMBER_OF,
    NUMBERS,
    PHOTO_COLORS,
    Swap,
    another,
    put,
)

_HUES = "".join(word for word in COLOR_OF if not word.isascii())
_COLOR = re.compile(
    rf"(?<![{_HUES}色])(?<![{_HUES}色][和与])([{_HUES}])(?:色(?:的)?|(?=[狗猫马牛羊鸟鸡车衣裤帽鞋裙球]))(?![{_HUES}和与、相色])"
)
_COAT = re.compile("(?:的)?(?:头发|长发|短发|长毛|毛|[小大]?[狗猫马牛羊鸟鸡])")
_SIZE = re.compile(r"([大小])(?=的)")
_OPPOSITE_SIZE = {"大": "小", "小": "大"}
_MEASURES = "只个条名位辆匹头张把座棵件块艘架"
_COUNT = re.compile(rf"(?<![第每另同唯某其])([一二两三四五六])(?=[{_MEASURES}])")
_OPPOSITE_PLACE = {
    "前面": "后面", "后面": "前面", "前方": "后方", "后方": "前方", "前边": "后边", "后边": "前边", "左边": "右边",
    "右边": "左边", "左侧": "右侧", "右侧": "左侧", "左面": "右面", "右面": "左面", "左上": "右上", "右上": "左上",
    "左下": "右下", "右下": "左下", "上面": "下面", "下面": "上面", "上方": "下方", "下方": "上方", "里面": "外面",
    "外面": "里面",
}  # fmt: skip
_PLACE = re.compile("|".join(_OPPOSITE_PLACE))
_LOCATED = re.compile(r"在[^在，。、上下里中外底]{1,5}([上下里])(?=[^面方边升去来车午衣网班课学]|$)")
_OPPOSITE_END = {"上": "下", "下": "上", "里": "外"}
_NOUN = (
    "小男孩|小女孩|男孩子|女孩子|男孩|女孩|男人|女人|男子|女子|男士|女士|小孩子|小孩|孩子|儿童|婴儿|老人|小狗|大狗|"
    "[黑白黄棕灰]狗|狗|猫|马|牛|羊|鸟|球|自行车|摩托车|汽车|车|圆形|方形|三角形"
)
_NOUN_PHRASE = (
    rf"(?:[一两三四五]?[{_MEASURES}])?(?:[大小]的)?(?:[{_HUES}]色的?)?(?:戴眼镜的|穿[^，。的在]{{1,4}}的)?(?:{_NOUN})"
)
_VERB = "(?:正在|在|正)?[追骑抱牵拉推咬叼看背举踢打遛喂亲](?:着|住|了|逐)?"
_ORDER = re.compile(rf"({_NOUN_PHRASE})({_VERB})({_NOUN_PHRASE})(?![子们板场门队手员类三车])")
_LISTED = re.compile(rf"({_NOUN_PHRASE})(，[^，]*?有)({_NOUN_PHRASE})")


def chinese_swaps(text: str, colors: frozenset[str], numbers: frozenset[str]) -> Iterator[Swap]:
    """Swaps of one caption; arguments as of `english_swaps`."""
    yield from _colors(text, colors)
    for match in _SIZE.finditer(text):
        new = _OPPOSITE_SIZE[match[1]]
        yield Swap("attribute", put(text, [(*match.span(1), new)]), new=f"{new}的")
    yield from _counts(text, numbers)
    for match in _PLACE.finditer(text):
        new = _OPPOSITE_PLACE[match[0]]
        yield Swap("relation", put(text, [(*match.span(), new)]), new=new)
    for match in _LOCATED.finditer(text):
        new = _OPPOSITE_END[match[1]]
        yield Swap("relation", put(text, [(*match.span(1), new)]), new=match[0][1:-1] + new)
    yield from _orders(text)


def _colors(text: str, mentioned: frozenset[str]) -> Iterator[Swap]:
    found = [(match, COLOR_OF[match[1]]) for match in _COLOR.finditer(text)]
    for (one, first), (two, second) in combinations(found, 2):
        if first != second:
            changed = put(text, [(*one.span(1), two[1]), (*two.span(1), one[1])])
            yield Swap("attribute", changed, text[one.end() :][:1] != text[two.end() :][:1])
    for match, color in found:
        is_coat = _COAT.match(text, match.end()) is not None
        new = another(COAT_COLORS if is_coat else PHOTO_COLORS, color, mentioned, text)
        if new is not None:
            yield Swap("attribute", put(text, [(*match.span(1), COLORS[new][1])]))


def _counts(text: str, mentioned: frozenset[str]) -> Iterator[Swap]:
    found = [(match, NUMBER_OF[match[1]]) for match in _COUNT.finditer(text)]
    for (one, first), (two, second) in combinations(found, 2):
        if first != second:
            changed = put(text, [(*one.span(1), two[1]), (*two.span(1), one[1])])
            yield Swap("count", changed, text[one.end() :][:2] != text[two.end() :][:2])
    for match, count in found:
        new = another(NUMBERS, count, mentioned, text)
        if new is not None:
            yield Swap("count", put(text, [(*match.span(1), NUMBERS[new][1])]))


def _orders(text: str) -> Iterator[Swap]:
    """Who does it and to whom in each other's place; two things of a list likewise, which is not sure to be false."""
    for pattern in (_ORDER, _LISTED):
        for match in pattern.finditer(text):
            if match[1] != match[3]:
                changed = put(text, [(*match.span(1), match[3]), (*match.span(3), match[1])])
                yield Swap("order", changed, pattern is _ORDER)
