"""Which objects each image has, by the data's own annotations: what POPE and CHAIR are made of.

Three kinds, the first that the examples have: annotated objects (`Example.objects`, from COCO instances), the class
label, the nouns of the captions (`data.nouns`). Annotated objects are complete and captions are not: a caption is
silent about much that its image shows. Nouns that seldom get named where they are to be seen (body parts, everyday
clothes, ground and sky) are therefore left out, synonyms are merged, and `Vocabulary.groups` says which objects may be
said for each other (`data.object_words`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chiasm.core.errors import InputError
from chiasm.core.mentions import Vocabulary
from chiasm.core.types import Example
from chiasm.data.nouns import noun_forms, plural
from chiasm.data.object_words import BROADER, INTERCHANGED, KINDS, NOT_OBJECTS, OFTEN_UNSAID, SYNONYMS
from chiasm.data.script import language_of

Origin = Literal["annotations", "labels", "captions"]
_MEANS = {word: name for name, words in SYNONYMS.items() for word in words}
_PEOPLE = ("person", "人")
_PERSON_ENDINGS = ("人", "者", "员")


@dataclass(frozen=True)
class FoundObjects:
    """The objects of some images.

    Attributes:
        by_image: the objects of each example, in the order of the examples, as `vocabulary` names them.
        vocabulary: the ways to say each object, and which may be said for each other.
        origin: what they were taken from.
        language: "en" or "zh", of their names.
    """

    by_image: tuple[frozenset[str], ...]
    vocabulary: Vocabulary
    origin: Origin
    language: str


def found_objects(
    examples: Sequence[Example], language: str | None = None, learn_from: Iterable[str] = ()
) -> FoundObjects:
    """Find the objects of examples.

    Args:
        examples: of one split; those without an annotation of the chosen kind have no objects.
        language: of the captions to read, "en" or "zh"; None takes the one that most captions have.
        learn_from: further captions in that language, such as the training split's: more captions find more nouns.

    Raises:
        InputError: there is neither an annotated object, nor a label, nor a caption, or the captions' language has no
            rule for nouns.
    """
    if any(example.objects for example in examples):
        return _closed([example.objects for example in examples], "annotations")
    if any(example.label for example in examples):
        return _closed([(example.label,) if example.label else () for example in examples], "labels")
    spoken = Counter(caption.language or language_of(caption.text) for one in examples for caption in one.captions)
    if not spoken:
        raise InputError(
            "no example has annotated objects, a label or a caption", "one of them", "add captions or labels"
        )
    chosen = language or max(spoken, key=lambda name: spoken[name])
    texts = [
        [one.text for one in example.captions if (one.language or language_of(one.text)) == chosen]
        for example in examples
    ]
    vocabulary = caption_vocabulary([*(text for of_one in texts for text in of_one), *learn_from], chosen)
    by_image = [frozenset(name for text in of_one for name in vocabulary.mentions(text)) for of_one in texts]
    return FoundObjects(tuple(by_image), vocabulary, "captions", chosen)


def caption_vocabulary(captions: Iterable[str], language: str) -> Vocabulary:
    """The objects that captions name, with their plurals and synonyms."""
    forms: dict[str, str] = {}
    for form, noun in noun_forms(captions, language).items():
        name = _MEANS.get(noun, noun)
        if not {form, noun, name} & NOT_OBJECTS and not {noun, name} & OFTEN_UNSAID:
            forms |= {form: name, name: name}
    for name in dict.fromkeys(forms.values()):
        further = [word for word in SYNONYMS.get(name, ()) if word not in forms]
        if language == "en":
            further += [plural(word) for word in (*further, name) if plural(word) not in forms]
        forms |= dict.fromkeys(further, name)
    return Vocabulary(forms, _groups(set(forms.values())))


def closed_vocabulary(objects: Iterable[str]) -> Vocabulary:
    """The ways to say the objects of a fixed list, such as COCO's: plurals, synonyms, and kinds ("man" for "person").

    A word that is an object of the list itself keeps its own meaning.
    """
    names = dict.fromkeys(objects)
    forms = {name.casefold(): name for name in names}
    for table in (SYNONYMS, KINDS):
        for name in names:
            for word in table.get(name.casefold(), ()):
                forms.setdefault(word, name)
                for same in SYNONYMS.get(word, ()):
                    forms.setdefault(same, name)
    for form, name in list(forms.items()):
        if form.isascii():
            forms.setdefault(plural(form), name)
    return Vocabulary(forms)


def _closed(objects: Sequence[Sequence[str]], origin: Origin) -> FoundObjects:
    names = sorted({name for of_one in objects for name in of_one})
    by_image = tuple(frozenset(of_one) for of_one in objects)
    return FoundObjects(by_image, closed_vocabulary(names), origin, language_of("".join(names)))


def _groups(names: set[str]) -> tuple[frozenset[str], ...]:
    """Those groups of the tables, and of each word with each narrower one, of which at least two names are there."""
    kinds = {
        name: {name, *words, *(other for other in names if name in _PEOPLE and other.endswith(_PERSON_ENDINGS))}
        for name, words in KINDS.items()
    }
    pairs = [{name, narrower} for name, words in BROADER.items() for narrower in words]
    merged = [{_MEANS.get(word, word) for word in group} & names for group in (*kinds.values(), *INTERCHANGED, *pairs)]
    return tuple(dict.fromkeys(frozenset(group) for group in merged if len(group) > 1))
