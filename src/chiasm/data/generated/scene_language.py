"""True captions, questions and answers about a scene, in English and Chinese, and a parser of captions.

Questions have five kinds: attribute, existence, count, comparison, spatial. Yes/no questions are balanced (the answer
is drawn first, then a question that has it), so that a model without image input stays near one half.
"""

import random
import re
from dataclasses import dataclass

import numpy as np

from chiasm.core.types import Caption, Question
from chiasm.data.generated.scene_detector import detect
from chiasm.data.generated.scenes import COLORS, GRID, MAX_OBJECTS, SHAPES, SIZES, Scene, SceneObject

KINDS = ("attribute", "existence", "count", "comparison", "spatial")
LANGUAGES = ("en", "zh")
PLACES = {
    "en": ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"),
    "zh": ("左上", "上方", "右上", "左边", "中间", "右边", "左下", "下方", "右下"),
}
WORDS = {
    "en": {word: word for word in (*SHAPES, *COLORS, *SIZES)},
    "zh": {
        "circle": "圆形", "square": "方形", "triangle": "三角形",
        "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "purple": "紫色", "cyan": "青色",
        "small": "小", "large": "大",
    },
}  # fmt: skip
YES_NO = {"en": ("yes", "no"), "zh": ("是", "不是")}
RELATIONS = {
    "left": ("left of", "左边"),
    "right": ("right of", "右边"),
    "above": ("above", "上面"),
    "below": ("below", "下面"),
}


@dataclass(frozen=True, slots=True)
class Description:
    """Attributes that an object must have; None means any."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def fits(self, thing: SceneObject) -> bool:
        """True if `thing` has every attribute that is not None."""
        return (
            (self.size is None or thing.size == self.size)
            and (self.color is None or thing.color == self.color)
            and (self.shape is None or thing.shape == self.shape)
        )

    def count(self, scene: Scene) -> int:
        """Number of objects that fit."""
        return sum(self.fits(thing) for thing in scene)

    def said(self, language: str, plural: bool = False) -> str:
        """The noun phrase without an article: "small red circle", "小的红色圆形"."""
        words = WORDS[language]
        if language == "zh":
            adjectives = [f"{words[self.size]}的"] if self.size else []
            adjectives += [words[self.color]] if self.color else []
            return "".join(adjectives) + (words[self.shape] if self.shape else "物体")
        noun = (self.shape or "object") + ("s" if plural else "")
        return " ".join([word for word in (self.size, self.color) if word] + [noun])


def caption(scene: Scene, language: str) -> Caption:
    """List every object in reading order, with its position: "a small red circle top left, a large ..."."""
    phrases = []
    for thing in scene:
        place = PLACES[language][thing.row * GRID + thing.column]
        phrase = Description(thing.size, thing.color, thing.shape).said(language)
        phrases.append(f"{place}有{phrase}" if language == "zh" else f"a {phrase} {place}")
    return Caption(("，" if language == "zh" else ", ").join(phrases), language)


def _patterns() -> dict[str, re.Pattern[str]]:
    def either(words: list[str]) -> str:
        return "(" + "|".join(sorted(words, key=len, reverse=True)) + ")"

    def attribute(language: str, names: tuple[str, ...]) -> str:
        return either([WORDS[language][name] for name in names])

    en = r"a {} {} {} {}".format(
        *(attribute("en", tuple(names)) for names in (SIZES, COLORS, SHAPES)), either(list(PLACES["en"]))
    )
    zh = r"{}有{}的{}{}".format(
        either(list(PLACES["zh"])), *(attribute("zh", tuple(names)) for names in (SIZES, COLORS, SHAPES))
    )
    return {"en": re.compile(en), "zh": re.compile(zh)}


_PATTERNS = _patterns()


def read_caption(text: str) -> tuple[tuple[int, int, str, str, str], ...] | None:
    """Parse a caption in either language into described objects; None where any part of it is no such phrase."""
    language = "zh" if "有" in text else "en"
    back = {said: name for name, said in WORDS[language].items()}
    objects = []
    for phrase in re.split(r"\s*[,，]\s*", text.strip()):
        match = _PATTERNS[language].fullmatch(phrase.replace(" ", "") if language == "zh" else phrase)
        if match is None:
            return None
        parts = list(match.groups())
        place = parts.pop(0 if language == "zh" else 3)
        row, column = divmod(PLACES[language].index(place), GRID)
        size, color, shape = (back[part] for part in parts)
        objects.append((row, column, size, color, shape))
    return tuple(objects)


@dataclass(frozen=True, slots=True)
class SceneTruth:
    """The objects of a generated example; checks whether a sentence lists exactly these objects."""

    scene: Scene

    def agrees(self, sentence: str) -> bool:
        """True if `sentence` lists exactly the scene's objects, each once, with the right attributes and position."""
        described = read_caption(sentence)
        return described is not None and sorted(described) == sorted(thing.described for thing in self.scene)

    def overlap(self, image: np.ndarray) -> tuple[int, int]:
        """As `Depictable.overlap`: objects by cell, size, colour and shape, read by `scene_detector.detect`."""
        shown, true = set(detect(image)), {thing.described for thing in self.scene}
        return len(shown & true), len(shown | true)

    def denies(self, sentence: str) -> bool:
        """True if `sentence` can be parsed and lists other objects; False if it cannot be parsed."""
        return read_caption(sentence) is not None and not self.agrees(sentence)


def _unique_descriptions(scene: Scene, fields: tuple[tuple[str, ...], ...]) -> list[tuple[Description, SceneObject]]:
    """Descriptions naming one of the given sets of attributes that fit exactly one object."""
    found = []
    for thing in scene:
        for names in fields:
            description = Description(**{name: getattr(thing, name) for name in names})
            if description.count(scene) == 1:
                found.append((description, thing))
    return found


def _ask_attribute(scene: Scene, rng: random.Random, language: str) -> Question | None:
    asked = rng.choice(("color", "shape", "size", "color at", "shape at"))
    if asked.endswith(" at"):
        thing = rng.choice(scene)
        name = asked.removesuffix(" at")
        place = PLACES[language][thing.row * GRID + thing.column]
        text = (
            f"{place}的物体是什么{'颜色' if name == 'color' else '形状'}？"
            if language == "zh"
            else f"what {name} is the object at the {place}?"
        )
    else:
        name = asked
        by: dict[str, tuple[tuple[str, ...], ...]] = {
            "color": (("shape",), ("size", "shape")),
            "shape": (("color",), ("size", "color")),
            "size": (("color",), ("shape",), ("color", "shape")),
        }
        choices = _unique_descriptions(scene, by[name])
        if not choices:
            return None
        description, thing = rng.choice(choices)
        noun = description.said(language)
        if language == "zh":
            what = {"color": "是什么颜色", "shape": "是什么形状", "size": "是大还是小"}[name]
            text = f"{noun}{what}？"
        else:
            text = f"what {name} is the {noun}?"
    return Question(text, (WORDS[language][getattr(thing, name)],), "attribute", language)


def _any_description(rng: random.Random) -> Description:
    color, shape, size = rng.choice(tuple(COLORS)), rng.choice(SHAPES), rng.choice(tuple(SIZES))
    return rng.choice(
        (Description(color=color, shape=shape), Description(size, color, shape), Description(size=size, shape=shape))
    )


def _ask_existence(scene: Scene, rng: random.Random, language: str) -> Question | None:
    yes = rng.random() < 0.5
    for _ in range(20):
        description = _any_description(rng)
        if yes or rng.random() < 0.5:  # near misses: attributes that do occur, not necessarily together
            first, second, third = rng.choice(scene), rng.choice(scene), rng.choice(scene)
            if yes:
                second = third = first
            description = Description(
                first.size if description.size else None,
                second.color if description.color else None,
                third.shape if description.shape else None,
            )
        if (description.count(scene) > 0) == yes:
            noun = description.said(language)
            text = f"有{noun}吗？" if language == "zh" else f"is there a {noun}?"
            return Question(text, (YES_NO[language][0 if yes else 1],), "existence", language)
    return None


def _countable(rng: random.Random) -> Description:
    kind = rng.randrange(4)
    if kind == 0:
        return Description(color=rng.choice(tuple(COLORS)))
    if kind == 1:
        return Description(shape=rng.choice(SHAPES))
    if kind == 2:
        return Description(size=rng.choice(tuple(SIZES)))
    return Description(size=rng.choice(tuple(SIZES)), shape=rng.choice(SHAPES))


def _ask_count(scene: Scene, rng: random.Random, language: str) -> Question | None:
    description = Description() if rng.random() < 0.1 else _countable(rng)
    wanted = rng.randint(0, MAX_OBJECTS)
    for _ in range(4):  # flattens the distribution of answers, which would be mostly 0 and 1
        if description.count(scene) == wanted:
            break
        description = _countable(rng)
    noun = description.said(language, plural=True)
    text = f"有几个{noun}？" if language == "zh" else f"how many {noun} are there?"
    return Question(text, (str(description.count(scene)),), "count", language)


def _ask_comparison(scene: Scene, rng: random.Random, language: str) -> Question | None:
    yes = rng.random() < 0.5
    for _ in range(20):
        name = rng.choice(("color", "shape", "size"))
        values: tuple[str, ...] = {"color": tuple(COLORS), "shape": SHAPES, "size": tuple(SIZES)}[name]
        seen = [getattr(thing, name) for thing in scene]
        first = rng.choice(seen)
        second = rng.choice([value for value in values if value != first])
        if rng.random() < 0.5:
            first, second = second, first
        more, fewer = Description(**{name: first}), Description(**{name: second})
        if (more.count(scene) > fewer.count(scene)) == yes:
            a, b = more.said(language, plural=True), fewer.said(language, plural=True)
            text = f"{a}比{b}多吗？" if language == "zh" else f"are there more {a} than {b}?"
            return Question(text, (YES_NO[language][0 if yes else 1],), "comparison", language)
    return None


def _holds(relation: str, a: SceneObject, b: SceneObject) -> bool:
    return {
        "left": a.column < b.column,
        "right": a.column > b.column,
        "above": a.row < b.row,
        "below": a.row > b.row,
    }[relation]


def _ask_spatial(scene: Scene, rng: random.Random, language: str) -> Question | None:
    choices = _unique_descriptions(scene, (("color", "shape"), ("size", "shape"), ("color",)))
    yes = rng.random() < 0.5
    for _ in range(12):
        if not choices:
            return None
        (first, a), (second, b) = rng.choice(choices), rng.choice(choices)
        relation = rng.choice(tuple(RELATIONS))
        comparable = a.column != b.column if relation in ("left", "right") else a.row != b.row
        if a is not b and comparable and _holds(relation, a, b) == yes:
            one, other = first.said(language), second.said(language)
            en, zh = RELATIONS[relation]
            text = f"{one}在{other}的{zh}吗？" if language == "zh" else f"is the {one} {en} the {other}?"
            return Question(text, (YES_NO[language][0 if yes else 1],), "spatial", language)
    return None


_ASK = {
    "attribute": _ask_attribute,
    "existence": _ask_existence,
    "count": _ask_count,
    "comparison": _ask_comparison,
    "spatial": _ask_spatial,
}


def questions(scene: Scene, count: int, rng: random.Random, languages: tuple[str, ...] = ("en",)) -> list[Question]:
    """Generate `count` questions, with the kinds in turn; a kind that does not apply to the scene is replaced.

    Args:
        scene: the scene.
        count: number of questions.
        rng: source of randomness.
        languages: each question's language is drawn uniformly from these; repeat a language to weight it.
    """
    asked: list[Question] = []
    turn = rng.randrange(len(KINDS))
    while len(asked) < count:
        question = _ASK[KINDS[turn % len(KINDS)]](scene, rng, rng.choice(languages))
        turn += 1
        if question is not None:
            asked.append(question)
    return asked
