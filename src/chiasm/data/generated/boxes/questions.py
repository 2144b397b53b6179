"""Counting questions about box images, derived from statements.

Training on them precedes training on statements, because a number is a more informative answer than true or false.
"""

import random
from typing import NamedTuple

from chiasm.data.generated.boxes.descriptions import BOX_DESCRIPTIONS, TOWER_AS_BOX_DESCRIPTIONS, TOWER_DESCRIPTIONS
from chiasm.data.generated.boxes.phrasing import Speaker, plural, touched
from chiasm.data.generated.boxes.render import BoxesScene
from chiasm.data.generated.boxes.semantics import Boxes, Facts, Items, Measure, facts_of

KIND = "how_many"
_ABOUT_ITEMS, _ABOUT_WALLS = 0.5, 0.4


class NumberQuestion(NamedTuple):
    """A question, the measure that it asks for, and its count in the first and the second image of a pair."""

    text: str
    measure: Measure
    counts: tuple[int, int]


def number_questions(scenes: tuple[BoxesScene, BoxesScene], count: int, rng: random.Random) -> list[NumberQuestion]:
    """Generate `count` questions about both images of a pair; their answers may be equal.

    Each counts items ("how many black circles are there?") or boxes ("how many boxes have a yellow item?"), which
    are named by an item or a box that one of the images has.
    """
    facts = facts_of(scenes[0]), facts_of(scenes[1])
    made: list[NumberQuestion] = []
    while len(made) < count:
        say = Speaker(rng, scenes[0].kind)
        text, measure = _of_items(say, facts) if say.chance(_ABOUT_ITEMS) else _of_boxes(say, facts)
        # A count that depends on whether "two blocks" means "exactly two" has no right answer.
        if all(measure.measure(boxes) == measure.measure(boxes, is_lenient=True) for boxes in facts):
            made.append(NumberQuestion(text, measure, (measure.measure(facts[0]), measure.measure(facts[1]))))
    return made


def _of_items(say: Speaker, facts: tuple[Facts, Facts]) -> tuple[str, Measure]:
    box = say.rng.choice(say.rng.choice(facts))
    bits = say.rng.choice(box)
    name, chosen = say.item(bits)
    if say.kind == "scatter" and say.chance(_ABOUT_WALLS):
        wall, words = touched(say, bits)
        return f"how many {plural(name)} are {words}?", Items(chosen.also(wall))
    return f"how many {plural(name)} are there?", Items(chosen)


def _of_boxes(say: Speaker, facts: tuple[Facts, Facts]) -> tuple[str, Measure]:
    box = say.rng.choice(say.rng.choice(facts))
    weights = BOX_DESCRIPTIONS if say.kind == "scatter" else TOWER_AS_BOX_DESCRIPTIONS
    weights = TOWER_DESCRIPTIONS if say.says_tower else weights
    describe = say.rng.choices(tuple(weights), tuple(weights.values()))[0]
    words, condition = describe(say, box)
    return f"how many {plural(say.subject())} have {words}?", Boxes(condition)
