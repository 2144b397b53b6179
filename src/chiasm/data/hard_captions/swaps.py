"""Compositional hard negatives: a caption with its attributes, its count, its relation or its order changed by rule.

NegCLIP (Yuksekgonul et al. 2023, "When and why vision-language models behave like bags-of-words", section 4) swaps
words within a caption, so that a model which only collects words cannot tell the two apart. Here the rules also look
at what else is known of the image, because a swapped caption may be true: at its other captions, which may mention
the new colour or number, and at the truth of a generated scene.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from chiasm.core.random import counter_rng
from chiasm.core.types import Caption, Example
from chiasm.data.generated.scene_language import SceneTruth
from chiasm.data.hard_captions.chinese import chinese_swaps
from chiasm.data.hard_captions.english import english_swaps
from chiasm.data.hard_captions.lexicon import COLOR_OF, NUMBER_OF, Swap

RULES = {"en": english_swaps, "zh": chinese_swaps}
"""Language -> its rules; captions in other languages have no swaps."""
_TOKEN = re.compile(r"[a-z]+|[^\x00-\x7f]|\d+")
_BLANK = re.compile(r"[\s.,;!?。，；！？]+")


def swaps(caption: Caption, others: Sequence[Caption] = (), truth: object = None) -> list[Swap]:
    """Every sentence that the rules make of a caption and that is not known to be true of its image.

    Left out are a swap that may say the same as before ("a black dog and a white dog" with the colours exchanged), one
    that is another caption of the image, and one whose new word another caption mentions (colours and numbers in
    whichever language). Where the truth of a scene is known it alone decides.

    Args:
        caption: in English or Chinese; other languages have no rules.
        others: what else was said of the image, the caption itself included or not.
        truth: `Example.truth`.
    """
    rules = RULES.get(caption.language)
    if rules is None:
        return []
    said = [caption, *others]
    colors, numbers = _mentioned(COLOR_OF, said), _mentioned(NUMBER_OF, said)
    known = [_plain(one.text) for one in said]
    found: dict[str, Swap] = {}
    for swap in rules(caption.text, colors, numbers):
        if isinstance(truth, SceneTruth):
            is_false = truth.denies(swap.text)
        else:
            is_false = swap.is_sure and not (swap.new and any(_says(text, swap.new) for text in known))
        if is_false and _plain(swap.text) not in known:
            found.setdefault(swap.text, swap)
    return list(found.values())


@lru_cache(maxsize=65_536)
def _remembered(caption: Caption, others: tuple[Caption, ...], truth: SceneTruth | None) -> tuple[Swap, ...]:
    return tuple(swaps(caption, others, truth))


def swaps_of(example: Example, caption: Caption) -> Sequence[Swap]:
    """`swaps` of one of an example's captions; cached across epochs."""
    truth = example.truth if isinstance(example.truth, SceneTruth) else None
    return _remembered(caption, example.captions, truth)


def choose_swap(example: Example, caption: Caption, share: float, seed: int, epoch: int) -> Swap | None:
    """Draw a swap of a caption for an epoch, each kind that it has being equally likely.

    None where it has none, and for a share of 1 - `share` of the captions.
    """
    found = swaps_of(example, caption)
    rng = counter_rng("swap", seed, epoch, example.id, caption.text)
    if not found or rng.random() >= share:
        return None
    kinds = sorted({one.kind for one in found})
    kind = kinds[int(rng.integers(len(kinds)))]
    chosen = [one for one in found if one.kind == kind]
    return chosen[int(rng.integers(len(chosen)))]


def swapped_texts(examples: Iterable[Example]) -> Iterable[str]:
    """Every swap of every caption, for a tower that is run once."""
    for example in examples:
        for caption in example.captions:
            yield from (one.text for one in swaps_of(example, caption))


def _mentioned(table: dict[str, str], captions: Iterable[Caption]) -> frozenset[str]:
    return frozenset(table[token] for one in captions for token in _TOKEN.findall(one.text.lower()) if token in table)


def _says(text: str, words: str) -> bool:
    """Whether a plain text has these words; Chinese has no spaces between them."""
    return f" {words} " in f" {text} " if words.isascii() else words in text


def _plain(text: str) -> str:
    return _BLANK.sub(" ", text.lower()).strip()
