"""Detect English text by the word frequencies of nine languages in Latin script.

A search is one to five words long, too short for the n-grams of letters that most detectors count. The package wordfreq
(extra [multilingual]) lists 30,000 words a language with their frequencies; a naive Bayes classifier over whole words
needs nothing else, and its prior says that English is as likely as the other eight together.
"""

import importlib.util
import math
import re
import unicodedata
from collections.abc import Mapping
from functools import cache

PACKAGE = "wordfreq"
ENGLISH, OTHERS = "en", ("de", "es", "fr", "it", "nl", "pl", "pt", "tr")
"""The languages of the second tower (`models.encoders.multilingual_use`) in Latin letters."""
UNSEEN = 1e-7
"""Frequency of a word that a list lacks: each list ends at 1e-6."""
_WORDS = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """The runs of letters of a text, composed (NFC) and without case."""
    return _WORDS.findall(unicodedata.normalize("NFC", text).casefold())


def is_latin(text: str) -> bool:
    """Whether every letter of a text is Latin, accents included; signs and numbers of any kind may be in it."""
    return text.isascii() or all("LATIN" in unicodedata.name(one, "") for one in text if one.isalpha())


def has_word_lists() -> bool:
    """Whether the package with the words is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def english_probability(text: str) -> float:
    """Probability in [0, 1] that a text is English rather than one of `OTHERS`; 0.5 without a known word.

    A text without letters is 1, one with a letter that is not Latin is 0. The lists are read at the first call.
    """
    if not is_latin(text):
        return 0.0
    words = words_of(text)
    if not words:
        return 1.0
    score = {
        language: sum(math.log(known.get(word, 0.0) + UNSEEN) for word in words)
        for language, known in _word_lists().items()
    }
    best = max(score.values())
    share = {language: math.exp(one - best) for language, one in score.items()}
    others = sum(share[language] for language in OTHERS) / len(OTHERS)
    return share[ENGLISH] / (share[ENGLISH] + others)


@cache
def _word_lists() -> Mapping[str, Mapping[str, float]]:
    """Language -> word -> frequency."""
    from wordfreq import get_frequency_dict

    return {language: get_frequency_dict(language, "small") for language in (ENGLISH, *OTHERS)}
