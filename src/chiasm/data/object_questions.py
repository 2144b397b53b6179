"""Questions after objects, answered yes or no: how each is worded, and drawn for training from the data's own objects.

`metrics.pope` draws those that measure. Drawn for training, each object is asked after as often where it is present as
where it is absent: the question alone then says nothing about its answer.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Example, Question
from chiasm.data.objects import found_objects

KIND = "object"
"""`Question.kind` of these questions."""
ANSWERS = {"en": ("yes", "no"), "zh": ("有", "没有")}
"""Language -> the answers."""

_AN = re.compile(r"(?!uni(?!n|m)|us[eua]|eu|ewe|one\b|once|ukulele|utensil)[aeiou]|hour|heir|honest", re.IGNORECASE)
_UNCOUNTED = re.compile(
    "bread|clothing|dirt|fire|food|foliage|furniture|graffiti|grass|gravel|hay|ice|ivy|jewelry|luggage|money|mud|paint|"
    "rain|sand|seaweed|smoke|snow|straw|surf|traffic|trash|underwear|water|wood",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"(?:people|cattle|police|skis|.*[^sui]s)(?<!canvas)(?<!gas|ens)", re.IGNORECASE)
"""Words that end in s and in none of -ss, -us, -is, and some others."""


def object_question(name: str, language: str = "en") -> str:
    """The question for an object: "Is there an umbrella in the image?", or "图中有狗吗？" (`language` "zh").

    English words without a singular or a plural are asked for as such ("Is there snow", "Are there sunglasses").

    Raises:
        InputError: another language.
    """
    if language == "zh":
        return f"图中有{name}吗？"
    if language != "en":
        raise InputError(f"questions in {language!r}", "en, zh", "ask in one of these languages")
    last = name.rsplit(" ", 1)[-1]
    if _PLURAL.fullmatch(last):
        return f"Are there {name} in the image?"
    if _UNCOUNTED.fullmatch(last):
        return f"Is there {name} in the image?"
    return f"Is there {'an' if _AN.match(name) else 'a'} {name} in the image?"


def with_object_questions(examples: Sequence[Example], per_image: int) -> list[Example]:
    """Give each example questions after objects, behind its own questions.

    An image gets up to `per_image / 2` questions after its objects and as many after absent ones. The absent ones are
    those that other images were asked after, dealt out in a random order that depends on nothing but the data. Where
    an object is in too many images to be absent as often, it is asked after less often where it is present. No absent
    object shares a group with one of the image.

    Args:
        examples: of one split, with annotated objects, labels or captions (`found_objects`).
        per_image: even, at least 2.

    Raises:
        InputError: as `found_objects`.
    """
    found = found_objects(examples)
    yes, no = ANSWERS[found.language]
    rng = counter_rng("object questions", len(examples))
    present = [_some(sorted(own), per_image // 2, rng.permutation(len(own)).tolist()) for own in found.by_image]
    names = [name for some in present for name in some]
    pool = deque(names[place] for place in rng.permutation(len(names)))
    absent = [
        _dealt(pool, found.vocabulary.with_related(own), len(some))
        for own, some in zip(found.by_image, present, strict=True)
    ]
    surplus = Counter(pool)
    for place in rng.permutation(len(present)):
        kept = [name for name in present[place] if not surplus[name]]
        surplus.subtract(name for name in present[place] if surplus[name])
        present[place] = kept
    result = []
    for example, some, others in zip(examples, present, absent, strict=True):
        asked = [*((name, yes) for name in some), *((name, no) for name in others)]
        questions = tuple(
            Question(object_question(name, found.language), (answer,), KIND, found.language) for name, answer in asked
        )
        result.append(replace(example, questions=(*example.questions, *questions)))
    return result


def _some(names: Sequence[str], count: int, order: Sequence[int]) -> list[str]:
    return [names[place] for place in order[:count]]


def _dealt(pool: "deque[str]", excluded: set[str], count: int) -> list[str]:
    """Take the first `count` different names off the pool that are not excluded; fewer where it has no more."""
    taken: list[str] = []
    passed: list[str] = []
    while pool and len(taken) < count:
        name = pool.popleft()
        (passed if name in excluded or name in taken else taken).append(name)
    pool.extendleft(reversed(passed))
    return taken
