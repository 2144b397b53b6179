"""Objects of images: from annotations, labels, captions."""

import pytest
from test_nouns import CHINESE, ENGLISH

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Example
from chiasm.data.objects import closed_vocabulary, found_objects


def example(*captions: str, language: str = "en", **fields: object) -> Example:
    """An example without an image."""
    return Example("x", {}, tuple(Caption(text, language) for text in captions), **fields)  # type: ignore[arg-type]


def test_annotations_come_first() -> None:
    """COCO's categories are the objects, with words of theirs that are no category; () is an image without any."""
    found = found_objects(
        [example("a man", objects=("person", "dining table"), label="x"), example("a dog"), example(objects=("dog",))]
    )
    assert found.origin == "annotations"
    assert found.by_image == (frozenset({"person", "dining table"}), frozenset(), frozenset({"dog"}))
    mentions = found.vocabulary.mentions("Two men, a lady, puppies and a table with greyhounds")
    assert mentions == ["person", "person", "dog", "dining table", "dog"]


def test_a_category_keeps_its_own_meaning() -> None:
    """Where "man" is annotated itself, it is not a person; "guy" is a man."""
    assert closed_vocabulary(["person", "man"]).mentions("a man, a guy, a woman") == ["man", "man", "person"]
    assert closed_vocabulary(["Cell phone"]).mentions("two CELL PHONES and a telephone") == ["Cell phone"] * 2


def test_labels_come_second() -> None:
    """A label is the object of its image; an example without one has none."""
    found = found_objects([example("a dog in the snow", label="cat"), example("a dog")])
    assert (found.origin, found.by_image) == ("labels", (frozenset({"cat"}), frozenset()))
    assert found_objects([example(label="猫")]).language == "zh"


def test_nouns_of_captions() -> None:
    """Plurals and synonyms are one object; body parts, clothes and abstract nouns are none."""
    further = [*ENGLISH, "A puppy in a puppy. The puppy.", "a hand in a hand on the hand", "the top of the top, a top."]
    found = found_objects(
        [example("Two dogs and a puppy on the grass"), example("a man's hand on the top")], None, further
    )
    assert (found.origin, found.language) == ("captions", "en")
    assert found.by_image == (frozenset({"dog", "grass"}), frozenset({"man"}))
    assert "hand" not in found.vocabulary.forms and "top" not in found.vocabulary.forms
    assert found.vocabulary.with_related({"man"}) == {"man", "boy"}


def test_the_captions_language() -> None:
    """The language of most captions, or the one asked for; captions of the other are not read."""
    both = Example("x", {}, (Caption("一只小狗在草地上。", "zh"), Caption("a dog in the snow", "en")))
    assert found_objects([both], "zh", CHINESE * 2).by_image == (frozenset({"狗", "草地"}),)
    assert found_objects([both], "en", ENGLISH).by_image == (frozenset({"dog", "snow"}),)
    assert found_objects([example(*CHINESE * 2, language="")]).language == "zh"


def test_nothing_to_find() -> None:
    """Neither objects nor labels nor captions; a language without a rule."""
    with pytest.raises(InputError, match="no example has"):
        found_objects([example()])
    with pytest.raises(InputError, match="'de'"):
        found_objects([example("ein Hund", language="de")])
