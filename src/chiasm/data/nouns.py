"""The nouns of captions by the words around them: no model, no dictionary, any field of words.

English: a noun stands behind an article, a number or an adjective and before a preposition, a verb of being, a comma
or the end ("a brown dog in the snow."). An adjective stands behind an article too, but another word follows it. A verb
hardly ever stands there. So words are counted in such places and kept where they stand in them often enough.

Chinese: a noun stands behind 的, a number with its measure word (一只狗), a verb of wearing or holding with 着, or
between 在 and a word of place (在草地上); words that stand behind 在 alone are verbs (在玩耍).

docs/trust.md has the share of the words found that are nouns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from chiasm.core.errors import InputError
from chiasm.data.object_words import IRREGULAR_PLURALS, PLURAL_ONLY, word_set

LANGUAGES = ("en", "zh")
LEAST = 3
"""Times that a word must stand in a noun's place."""
_NOUN_SHARE = 0.35
"""Least share of a word's occurrences behind an article, a number or an adjective; verbs have below 0.1."""
_PLURAL_SHARE = 0.1
"""The same for a word in -s; below it the word is a verb ("she swings") though its singular is a noun."""
_HEAD_SHARE = 0.25
"""Least share of those with a boundary behind: below it the word is an adjective."""

_DETERMINERS = word_set(
    "a an the this that these those his her its their another each every two three four five six seven eight nine ten "
    "many several some one other with of wearing holding"
)
_BOUNDARIES = word_set(
    "in on at of to with by from into onto over under near behind beside through across along around up down off out "
    "for against between among during above below while as but who which that is are was were wearing holding next "
    "inside outside towards toward past about after before underneath alongside amongst atop without and or"
)
_ENGLISH = re.compile(r"[a-z]+(?:['-][a-z]+)*|[^\w\s]")

_NUMBERS = "一两二三四五六七八九十几多那这每"
_MEASURES = "只个条辆位名匹头张件座艘架群对双块片棵朵顶把根支台间栋幅"
_WORD = "([\u4e00-\u9fff]{1,4}?)"
_END = "(?=$|[^\u4e00-\u9fff]|[在和与跟正穿戴拿站坐走跑骑着里上中下旁前后边的抱从向跳躺看])"
_NOUN_PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        f"(?:的|[{_NUMBERS}][{_MEASURES}]){_WORD}{_END}",
        f"[戴穿骑拿叼抱牵拉推举扔踢追背](?:着|了)?{_WORD}(?=$|[^\u4e00-\u9fff]|[在的和])",
        f"[在从]{_WORD}(?=[上里中旁边前下])",
    )
)
_VERB_PLACE = re.compile(f"[在正]{_WORD}(?=$|[^\u4e00-\u9fff]|[的着])")
_NEVER_INSIDE = re.compile("[在正和与跟从向把被给有是很不也都着了戴穿叼踩搂咬趴奔牵扑的]")
_NEVER_FIRST = re.compile(
    f"[玩拿骑抱带举拉推坐站走跑跳躺追看开打踢扔荡做没可俩住接]|[{_NUMBERS}][{_MEASURES}]|[两一][人狗]|[{_NUMBERS}]+$"
)
_ADJECTIVE = re.compile("^(?:[\u4e00-\u9fff]{1,2}色|[小大老黑白黄红蓝绿棕花灰粉胖瘦金长短](?=.))")
_PREFIX_TIMES = 10
"""A word that begins with one so many times as frequent is that word and a verb (狗叼)."""


def noun_forms(captions: Iterable[str], language: str, least: int = LEAST) -> dict[str, str]:
    """Find the nouns of captions.

    Args:
        captions: texts of one language; more texts find more nouns, a thousand are a start.
        language: "en" or "zh".
        least: times that a noun must stand in a noun's place.

    Returns:
        Each form of each noun -> the noun ("dogs" -> "dog", "dog" -> "dog"), the most frequent noun first.
    """
    if language == "en":
        return _english(captions, least)
    if language == "zh":
        return _chinese(captions, least)
    raise InputError(
        f"captions in {language!r}", f"nouns of {', '.join(LANGUAGES)}", "give the objects as labels or annotations"
    )


def plural(noun: str) -> str:
    """The plural of an English noun, of its last word."""
    head, space, last = noun.rpartition(" ")
    irregular = next((form for form, single in IRREGULAR_PLURALS.items() if single == last), None)
    if irregular:
        return head + space + irregular
    if last in PLURAL_ONLY and last.endswith("s") and not last.endswith(("ss", "bus")):
        return noun
    if re.search("(?:s|x|z|ch|sh)$", last):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", last) else noun + "s"


def _english(captions: Iterable[str], least: int) -> dict[str, str]:
    sentences = [[*_ENGLISH.findall(text.casefold()), "."] for text in captions]
    adjectives = _english_adjectives(sentences)
    heads: Counter[str] = Counter()
    modified: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for words in sentences:
        for before, word, after in zip(["", *words], words, words[1:], strict=False):
            if not _is_word(word):
                continue
            total[word] += 1
            if before in _DETERMINERS or before in adjectives:
                modified[word] += 1
                heads[word] += _is_boundary(after)
    single = {
        word: _singular(word, heads, adjectives) if modified[word] >= _PLURAL_SHARE * count else word
        for word, count in total.items()
    }
    for counts in (heads, modified, total):
        for word, name in single.items():
            if name != word and word in counts:
                counts[name] += counts.pop(word)
    nouns = {
        word
        for word in total
        if heads[word] >= least
        and heads[word] >= _HEAD_SHARE * modified[word]
        and modified[word] >= _NOUN_SHARE * total[word]
        and word not in adjectives
        and len(word) > 1
    }
    ordered = sorted(nouns, key=lambda word: (-total[word], word))
    forms = {word: word for word in ordered}
    forms |= {word: name for word, name in single.items() if name in nouns}
    return forms | {plural(word): word for word in ordered if plural(word) not in single}


def _english_adjectives(sentences: list[list[str]]) -> set[str]:
    """Words behind an article that another word follows nearly always; "and" does not end them (black and white)."""
    behind: Counter[str] = Counter()
    ending: Counter[str] = Counter()
    for words in sentences:
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            if before in _DETERMINERS and _is_word(word):
                behind[word] += 1
                ending[word] += _is_boundary(after) and after not in ("and", "or", ",")
    return {word for word, count in behind.items() if count >= LEAST and ending[word] < 0.1 * count}


def _is_word(word: str) -> bool:
    return word[0].isalpha() and word not in _DETERMINERS and word not in _BOUNDARIES


def _is_boundary(word: str) -> bool:
    return word in _BOUNDARIES or not word[0].isalpha()


def _singular(word: str, heads: Mapping[str, int], adjectives: set[str]) -> str:
    """The singular, where it stands in a noun's place itself; the word otherwise."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word in PLURAL_ONLY or word.endswith("ss"):
        return word
    for ending, single in (
        ("ies$", "y"),
        ("(?<=[sxzo])es$|(?<=[cs]h)es$", ""),
        ("s$", ""),
    ):
        found, changed = re.subn(ending, single, word)
        if changed and len(found) > 1 and heads.get(found, 0) and found not in adjectives:
            return found
    return word


def _chinese(captions: Iterable[str], least: int) -> dict[str, str]:
    texts = list(captions)
    places = Counter(found for text in texts for place in _NOUN_PLACES for found in place.findall(text))
    verbs = Counter(found for text in texts for found in _VERB_PLACE.findall(text))
    kept = {
        word: count
        for word, count in places.items()
        if count >= least and count > verbs[word] and not _NEVER_INSIDE.search(word) and not _NEVER_FIRST.match(word)
    }
    nouns: dict[str, str] = {}
    for word, count in sorted(kept.items(), key=lambda entry: (-entry[1], entry[0])):
        starts = [word[:size] for size in range(1, len(word)) if word[:size] in nouns]
        plain = word.removesuffix("们")
        if plain != word and plain in kept:
            nouns[word] = plain
        elif (bare := _ADJECTIVE.sub("", word)) != word and kept.get(bare, 0) > count:
            nouns[word] = bare
        elif not any(kept[start] >= _PREFIX_TIMES * count for start in starts):
            nouns[word] = word
    return {word: nouns.get(name, name) for word, name in nouns.items()}
