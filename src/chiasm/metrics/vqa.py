"""The VQA accuracy: how far an answer agrees with what ten people said about the same question.

Where every acceptable answer is fully right (VQA-RAD, generated questions), use `metrics.exact_matches`. The scores
of many questions become one number with an interval by `intervals.proportion`, with the images as clusters.
"""

import re
from collections.abc import Sequence

from chiasm.core.errors import InputError

PEOPLE = 10
"""Answers to a question in VQA v1 and v2."""
_AGREEING = 3
"""An answer that this many people gave is fully right."""

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")

_CONTRACTIONS = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're "
    "there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're "
    "you've couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've "
    "someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've"
)


def _misspelt(words: str) -> dict[str, str]:
    """Map each contraction with one apostrophe left out to the full word (dont, couldnt've, couldn'tve)."""
    known = {}
    for word in words.split():
        for place, character in enumerate(word):
            if character == "'":
                known[word[:place] + word[place + 1 :]] = word
    # The published table has this one the wrong way round; papers compare scores that were counted with it.
    known["somebody'd"] = "somebodyd"
    return known


_FULL_WORD = _misspelt(_CONTRACTIONS)


def normalise_vqa_answer(text: str) -> str:
    """Bring an answer into the form in which the VQA evaluation compares answers.

    Marks go: one that touches a space anywhere in the text (or any mark, where the text has a number such as 1,000)
    is deleted, any other becomes a space. A full stop goes unless a digit follows. Then lower case, number words up
    to ten as digits ("none" is 0), no articles, and apostrophes put back (dont, don't). The rules are those of the
    VQA v2 evaluation program (Goyal et al. 2017, arXiv:1612.00837).
    """
    plain = text.replace("\n", " ").replace("\t", " ").strip()
    has_number = _COMMA_IN_NUMBER.search(plain) is not None
    marked = plain
    for mark in _MARKS:
        is_loose = has_number or mark + " " in plain or " " + mark in plain
        marked = marked.replace(mark, "" if is_loose else " ")
    words = (_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", marked).lower().split())
    return " ".join(_FULL_WORD.get(word, word) for word in words if word not in _ARTICLES)


def vqa_score(answer: str, human_answers: Sequence[str]) -> float:
    """Score one answer in [0, 1]: the mean over people of min(1, matches among the other people / 3).

    That is Antol et al. 2015 (arXiv:1505.00468, section 3) as the evaluation program computes it, leaving out each
    person in turn: 1 match of ten scores 0.3, 2 score 0.6, 3 score 0.9, 4 or more 1. With fewer than ten answers
    each counts as 10/n of ten people, so that the only answer to a question is fully right; the bare formula would
    give it 0. Both sides are always normalised; the program compares raw text where all people wrote the same.

    Args:
        answer: the model's answer.
        human_answers: one text a person, usually ten.
    """
    if isinstance(human_answers, str) or len(human_answers) == 0:
        raise InputError(
            f"human answers {human_answers!r}", "a list of at least one text", "pass Question.answers, one a person"
        )
    given = normalise_vqa_answer(answer)
    people = max(PEOPLE, len(human_answers))
    found = sum(normalise_vqa_answer(text) == given for text in human_answers) * people / len(human_answers)
    if found == 0:
        return 0.0
    as_agreeing, as_other = min(1.0, (found - 1) / _AGREEING), min(1.0, found / _AGREEING)
    return (found * as_agreeing + (people - found) * as_other) / people
