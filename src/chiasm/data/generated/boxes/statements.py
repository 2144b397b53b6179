"""Statements about pairs of box images, each true of exactly one of the two.

A function for each family of statements proposes a statement from the facts of both images; `statements` keeps it if it
is true of exactly one. Families are drawn as often as they occur in the published corpus.
"""

import random
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from chiasm.data.generated.boxes.descriptions import (
    BOX_DESCRIPTIONS,
    TOWER_AS_BOX_DESCRIPTIONS,
    TOWER_DESCRIPTIONS,
    Describe,
    height,
    place,
)
from chiasm.data.generated.boxes.phrasing import Speaker, color_of, plural, touched
from chiasm.data.generated.boxes.render import BoxesScene
from chiasm.data.generated.boxes.semantics import (
    ANY,
    BIT,
    Alike,
    AllOf,
    Amount,
    Boxes,
    BoxFacts,
    Claim,
    Comparison,
    Facts,
    Filter,
    Items,
    Kinds,
    Meaning,
    Measure,
    Stack,
    Stacks,
    Touching,
    facts_of,
    is_doubtful,
    is_true,
)

KINDS = ("box", "count", "place", "order", "touch", "same", "every", "definite")
"""Kinds of statements; scores are reported by kind."""


class Statement(NamedTuple):
    """A sentence, its kind, its meaning, and whether it is true of the first and the second image of a pair."""

    text: str
    kind: str
    meaning: Meaning
    truth: tuple[bool, bool] = (False, False)


class Pair(NamedTuple):
    """The facts of two images."""

    first: Facts
    second: Facts

    def counts(self, measure: Measure) -> tuple[int, int]:
        """The smaller and the larger value of a measure in the two."""
        one, other = measure.measure(self.first), measure.measure(self.second)
        return (one, other) if one < other else (other, one)

    def any_box(self, say: Speaker) -> BoxFacts:
        """Draw one of the six boxes."""
        facts = self.first if say.chance(0.5) else self.second
        return facts[int(say.rng.random() * len(facts))]

    def any_item(self, say: Speaker) -> int:
        """Draw an item of one of them."""
        box = self.any_box(say)
        return box[int(say.rng.random() * len(box))]


def _separating(say: Speaker, low: int, high: int) -> tuple[Comparison, int]:
    """Choose a comparison and a number that hold for one of two counts alone."""
    draw = say.rng.random()
    if low == 0 and draw < 0.4:
        return ">=", 1
    if draw < 0.6:
        return "bare", high
    if draw < 0.8:
        return "==", high if say.chance(0.6) else low
    if draw < 0.95:
        return ">=", low + 1 + int(say.rng.random() * (high - low))
    number = low + int(say.rng.random() * (high - low))
    return ("<=", number) if number else ("==", 0)


def _claim(say: Speaker, pair: Pair, measure: Measure) -> Claim | None:
    low, high = pair.counts(measure)
    if low == high:
        return None
    comparison, number = _separating(say, low, high)
    return Claim(measure, comparison, number) if number < 10 else None


def _there(say: Speaker, claim: Claim, noun: str, rest: str) -> str:
    """A sentence that starts with an amount: "there are exactly two towers" and the rest."""
    _, comparison, number = claim
    be = "is" if number < 2 else "are"
    if say.chance(0.03):
        be = "are" if be == "is" else "is"
    return f"there {be} {say.some(comparison, number, noun)} {rest}".rstrip()


def _drawn(say: Speaker, weights: dict[Describe, float]) -> Describe:
    return say.rng.choices(tuple(weights), tuple(weights.values()))[0]


def _having(say: Speaker, is_plural: bool) -> str:
    has, contains = ("have", "contain") if is_plural and say.chance(0.7) else ("has", "contains")
    return say.pick(*["with"] * 14, f"which {has}", f"that {has}", "having", f"that {contains}", "containing")


def about_a_box(say: Speaker, pair: Pair) -> Statement | None:
    """Something that a number of boxes or towers have."""
    box = pair.any_box(say)
    subject = say.subject()
    weights = BOX_DESCRIPTIONS if say.kind == "scatter" else TOWER_AS_BOX_DESCRIPTIONS
    weights = TOWER_DESCRIPTIONS if say.says_tower else weights
    describe = _drawn(say, weights)
    words, condition = describe(say, box)
    if subject == "tower" and describe is not height and say.chance(0.3):
        front, size = height(say, box)
        joint = say.pick("having", "with", "with", "and", "that has", "where there is")
        words, condition = f"{front} {joint} {words}", AllOf((size, condition))
    claim = _claim(say, pair, Boxes(condition))
    if claim is None:
        return None
    _, comparison, number = claim
    if number == 3 and comparison != "<=" and say.chance(0.6):
        return _every(say, subject, words, claim.measure)
    if comparison in (">=", "bare") and 0 < number < 3 and say.chance(0.12):
        some = say.amount("bare" if comparison == "bare" else ">=", number)
        some = "one" if some == "a" else some
        whole = "of the three towers" if subject == "tower" else f"of the {plural(subject)}"
        has = say.pick("has", "has", "contains") if number == 1 or say.chance(0.5) else "have"
        return Statement(f"{some} {whole} {has} {words}", "box", (claim,))
    return Statement(_there(say, claim, subject, f"{_having(say, number > 1)} {words}"), "box", (claim,))


def _every(say: Speaker, subject: str, words: str, measure: Measure) -> Statement:
    all_of = say.pick(f"each {subject} has", f"every {subject} has", f"all 3 {plural(subject)} have",
                      f"all the {plural(subject)} have", f"each {subject} contains")  # fmt: skip
    text = f"{all_of} {words}"
    if say.chance(0.3):
        text = f"there is {words} in {say.pick('each', 'every')} {subject}"
    return Statement(text, "every", (Claim(measure, "==", 3),))


def of_one_color(say: Speaker, pair: Pair) -> Statement | None:
    """A tower all of one colour: "there is a blue tower with only one block"."""
    box = pair.any_box(say)
    color = color_of(box[0])
    condition = AllOf((Amount(ANY.also(color), ">=", 1), Kinds("color", ANY, "==", 1)))
    rest = ""
    if say.chance(0.5):
        words, size = height(say, box)
        rest, condition = f"{_having(say, False)} {words}", AllOf((*condition.parts, size))
    claim = _claim(say, pair, Boxes(condition))
    return None if claim is None else Statement(_there(say, claim, f"{color} tower", rest), "box", (claim,))


def by_place(say: Speaker, pair: Pair) -> Statement | None:
    """A block as the base or top of towers; the second block from the base."""
    box = pair.any_box(say)
    spot = say.pick("base", "base", "base", "top", "top", "top", "second", "third")
    there = [bits for bits in box if bits & BIT[spot]]
    if not there:
        return None
    color = color_of(there[0])
    condition: Amount | AllOf = Amount(ANY.also(color, spot), ">=", 1)
    tail = ""
    if say.chance(0.55):
        words, size = height(say, box)
        tail, condition = f" with {words}", AllOf((size, condition))
    claim = _claim(say, pair, Boxes(condition))
    if claim is None:
        return None
    _, comparison, number = claim
    if spot in ("second", "third") or (comparison == ">=" and number == 1 and say.chance(0.1)):
        if (comparison, number) != (">=", 1):
            return None
        name = f"the {spot} block" if spot in ("second", "third") else f"the {spot}"
        a_tower = say.pick("a tower", "one of the towers") + tail
        from_base = say.pick(" from the base of ", " of ") if spot in ("second", "third") else " of "
        text = f"{name}{from_base}{a_tower} is {color}"
        if spot in ("second", "third") and from_base == " of ":
            text = f"{name} of {a_tower} from the base is {color}"
        return Statement(text, "place", (claim,))
    if number and say.chance(0.15):
        text = f"there is a {color} block as the {spot} of {say.some(comparison, number, 'tower')}{tail}"
    else:
        text = _there(say, claim, f"{color} block", f"as the {spot} of {say.pick('a', 'a', 'a', 'the')} tower{tail}")
    return Statement(text, "place", (claim,))


def counted(say: Speaker, pair: Pair) -> Statement | None:
    """The number of items of one kind, or of two kinds, in the image."""
    name, chosen = say.item(pair.any_item(say))
    claim = _claim(say, pair, Items(chosen))
    if claim is None:
        return None
    text = _there(say, claim, name, "")
    if say.chance(0.2) and claim.comparison != "<=":
        other, also = say.item(pair.any_item(say))
        counts = pair.counts(Items(also))
        if other != name and counts[0] and not (also.mask & ~chosen.mask == 0 or chosen.mask & ~also.mask == 0):
            second = Claim(Items(also), ">=", 1 + int(say.rng.random() * min(counts[0], 3)))
            text += f" and {say.some(second.comparison, second.number, other)}"
            return Statement(text, "count", (claim, second))
    return Statement(text, "count", (claim,))


def on_another(say: Speaker, pair: Pair) -> Statement | None:
    """The number of blocks of one colour on another: "there is a blue block on a yellow block"."""
    box = pair.any_box(say)
    if len(box) < 2:
        return None
    start = int(say.rng.random() * (len(box) - 1))
    low, high = color_of(box[start]), color_of(box[start + 1])
    claim = _claim(say, pair, Stacks(Stack((ANY.also(low), ANY.also(high)))))
    if claim is None:
        return None
    if say.chance(0.7):
        noun, rest = f"{high} block", f"{say.pick('on', 'on', 'above', 'above', 'over', 'on top of')} a {low} block"
    else:
        noun, rest = f"{low} block", f"{say.pick('below', 'bellow', 'under', 'beneath')} a {high} block"
    if say.chance(0.06):
        rest = rest.replace(" a ", " the ")
    return Statement(_there(say, claim, noun, rest), "order", (claim,))


def touching(say: Speaker, pair: Pair) -> Statement | None:
    """The number of items that touch a wall, a corner, or nothing."""
    bits = pair.any_item(say)
    wall, words = touched(say, bits)
    name, chosen = say.item(bits, must_tell=False)
    draw = say.rng.random()
    if draw < 0.05:
        claim = _claim(say, pair, Touching(Filter(0, 0).also("edge")))
        if claim is None or claim.comparison == "<=":
            return None
        if claim.number == 3:
            return Statement(f"items of all {say.number(3)} colors are touching the wall", "touch", (claim,))
        only = claim._replace(comparison="==")
        return Statement(f"there is only {say.some('bare', claim.number, 'color')} touching the wall", "touch", (only,))
    if draw < 0.12 and bits & BIT["edge"]:
        return _every_touching(say, pair, name, chosen, (wall, words))
    is_not = wall == "edge" and (not bits & BIT["edge"] or say.chance(0.2))
    claim = _claim(say, pair, Items(chosen.also(f"-{wall}" if is_not else wall)))
    if claim is None:
        return None
    if claim.number == 0 and say.chance(0.5) and not is_not and pair.counts(Items(chosen))[0]:
        return Statement(f"none of the {plural(name)} are {words}", "touch", (claim,))
    return Statement(_there(say, claim, name, f"not {words}" if is_not else words), "touch", (claim,))


def _every_touching(say: Speaker, pair: Pair, name: str, chosen: Filter, where: tuple[str, str]) -> Statement | None:
    wall, words = where
    claim = _claim(say, pair, Boxes(Amount(chosen.also(wall), ">=", 1)))
    if claim is None or claim.number != 3 or claim.comparison == "<=":
        return None
    return _every(say, say.subject(), f"at least {say.number(1)} {name} {words}", claim.measure)


def same(say: Speaker, pair: Pair) -> Statement | None:
    """The number of towers or boxes that share a property."""
    options = ("base", "top", "colors", "count") if say.kind == "tower" else ("count",)
    what = say.pick(*options)
    measure = Alike(what)  # type: ignore[arg-type]
    low, high = pair.counts(measure)
    if low == high:
        return None
    subject = say.subject()
    if say.kind == "scatter" or what == "count":
        shared = f"the same number of {plural(say.thing())}"
        if subject == "tower" and say.chance(0.3):
            shared = "the same height"
    else:
        color = say.pick("color", "color", "colour")
        shared = {"base": f"the same base {color}", "top": f"the same top {color}", "colors": "only one same color"}[
            what
        ]
        if what == "base" and say.chance(0.3):
            shared = f"block of same {color} at base"
    if high == 3 and say.chance(0.6):
        if what in ("base", "top"):
            is_not = "not " if say.chance(0.4) else ""
            claim = Claim(measure, "<=", 2) if is_not else Claim(measure, "==", 3)
            all_of = say.pick(f"the {what} of the three towers are", f"all the {what} of the towers are")
            return Statement(f"{all_of} {is_not}the same in {say.pick('color', 'colors')}", "same", (claim,))
        return Statement(f"all the {plural(subject)} have {shared}", "same", (Claim(measure, "==", 3),))
    if high == 2 or low == 2:
        number = 2 if high == 2 else 3
        amount = say.pick("at least ", "") + say.number(number)
        have = say.pick("that has", "which has", "that have", "with")
        return Statement(
            f"there are {amount} {plural(subject)} {have} {shared}", "same", (Claim(measure, ">=", number),)
        )
    return None


def definite(say: Speaker, pair: Pair) -> Statement | None:
    """A property of an item or tower of which both images have exactly one of a kind."""
    if say.kind == "scatter":
        bits = pair.any_item(say)
        name, chosen = say.item(bits)
        if pair.counts(Items(chosen)) != (1, 1):
            return None
        wall, words = touched(say, bits)
        is_not = say.chance(0.4)
        claim = Claim(Items(chosen.also(f"-{wall}" if is_not else wall)), "==", 1)
        return Statement(f"the {name} is {'not ' if is_not else ''}{words}", "definite", (claim,))
    box = pair.any_box(say)
    tall = Amount(ANY, "==", len(box))
    if pair.counts(Boxes(tall)) != (1, 1):
        return None
    words, condition = _drawn(say, {place: 3, **TOWER_DESCRIPTIONS})(say, box)
    with_blocks = f"with {say.pick('exactly ', '')}{say.some('bare', len(box), 'block')}"
    text = f"{say.pick('the', 'the', 'the', 'one of the')} tower {with_blocks} has {words}"
    return Statement(text, "definite", (Claim(Boxes(AllOf((tall, condition))), "==", 1),))


def on_top_everywhere(say: Speaker, pair: Pair) -> Statement | None:
    """An item of one colour on top, or at the base, of every tower."""
    spot = say.pick("top", "top", "base")
    color = color_of(pair.any_box(say)[-1 if spot == "top" else 0])
    claim = _claim(say, pair, Boxes(Amount(ANY.also(color, spot), ">=", 1)))
    if claim is None or claim.comparison not in ("bare", ">="):
        return None
    _, comparison, number = claim
    if number == 3:
        text = f"the {color} item is {'on top' if spot == 'top' else 'at the base'} in every box"
    elif spot == "top":
        be = "is" if number == 1 else "are"
        text = f"{say.some('bare' if comparison == 'bare' else '>=', number, f'{color} item')} {be} on top"
    else:
        verb = "has" if number == 1 or say.chance(0.6) else "have"
        text = f"{say.number(number)} of the three towers {verb} a {color} base"
        claim = claim._replace(comparison="bare")
    return Statement(text, "every" if number == 3 else "place", (claim,))


Family = Callable[[Speaker, Pair], Statement | None]
FAMILIES: dict[str, dict[Family, float]] = {
    "tower": {
        about_a_box: 12, by_place: 4, on_another: 2.5, counted: 1.5, of_one_color: 1.5, definite: 2, same: 1,
        on_top_everywhere: 1.2,
    },
    "scatter": {about_a_box: 5, touching: 6, counted: 1.5, same: 0.3, definite: 0.7},
}  # fmt: skip
_CUMULATIVE = {kind: (tuple(weights), tuple(accumulate(weights.values()))) for kind, weights in FAMILIES.items()}
MAX_ATTEMPTS = 400


def statements(scenes: tuple[BoxesScene, BoxesScene], count: int, rng: random.Random) -> list[Statement]:
    """Generate `count` different statements that are each true of exactly one of two images of one kind.

    A statement is repeated only if `MAX_ATTEMPTS` did not find a different one.
    """
    pair = Pair(facts_of(scenes[0]), facts_of(scenes[1]))
    families, cumulative = _CUMULATIVE[scenes[0].kind]
    found: dict[str, Statement] = {}
    attempts = 0
    while len(found) < count and (not found or attempts < MAX_ATTEMPTS * count):
        # A family is retried until it succeeds or has used its attempts, so that hard ones are not rare.
        family = rng.choices(families, cum_weights=cumulative)[0]
        for _ in range(8):
            attempts += 1
            say = Speaker(rng, scenes[0].kind)
            made = family(say, pair)
            truth = None if made is None else _truth(made.meaning, pair)
            if made is not None and truth is not None:
                text = _written(say, made.text)
                found.setdefault(text, made._replace(text=text, truth=truth))
                break
    made_all = list(found.values())
    return [made_all[number % len(made_all)] for number in range(count)]


def _truth(meaning: Meaning, pair: Pair) -> tuple[bool, bool] | None:
    """The truth for both images; None where it is the same, or depends on the reading of a bare number."""
    truth = is_true(meaning, pair.first), is_true(meaning, pair.second)
    is_useless = truth[0] == truth[1] or any(is_doubtful(meaning, facts) for facts in pair)
    return None if is_useless else truth


def _written(say: Speaker, text: str) -> str:
    text = say.misspelt(text)
    if say.chance(0.8):
        text = text[0].upper() + text[1:]
    return text + ("." if say.chance(0.55) else "")
