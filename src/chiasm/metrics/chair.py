"""CHAIR: how many of the objects that captions name are not in the image (Rohrbach et al. 2018, arXiv:1809.02156).

CHAIR_i is the share of hallucinated mentions among all mentions, CHAIR_s the share of captions with at least one; lower
is better. Mentions are found by a vocabulary with synonyms (longest match), in English and Chinese.

What it cannot say: where the image's objects are the nouns of people's captions, an object that the image shows and
no caption names counts as hallucinated, so that a more detailed caption looks worse. Words outside the vocabulary are
not judged. A caption that names nothing is never wrong: read it beside `chair_mentions` and CIDEr.

Axis legend: n captions.
"""

from collections.abc import Collection, Sequence

import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.mentions import Vocabulary
from chiasm.core.types import Score
from chiasm.metrics.intervals import bootstrap_mean, proportion


def hallucinated(caption: str, objects: Collection[str], vocabulary: Vocabulary) -> list[tuple[str, bool]]:
    """The object of each mention of a caption, with True where the image has neither it nor one of its group."""
    allowed = vocabulary.with_related(objects)
    return [(name, name not in allowed) for name in vocabulary.mentions(caption)]


def chair_scores(
    captions: Sequence[str],
    objects_by_image: Sequence[Collection[str]],
    vocabulary: Vocabulary,
    image: Sequence[int],
    seed: int = 0,
) -> dict[str, Score]:
    """`chair_i`, `chair_s`, and `chair_mentions`, the mean number of mentions a caption.

    Args:
        captions: n texts that a model wrote.
        objects_by_image: for each image the objects that it has, as the vocabulary names them.
        vocabulary: the ways to say the objects; what it does not know is not counted.
        image: int [n], the place in `objects_by_image` of each caption's image; the intervals draw images.
        seed: decides the resamples.

    Returns:
        `chair_i` rests on mentions; without any it is 0 with the interval [0, 1] and n = 0.
    """
    places: npt.ArrayLike = list(image)
    if not 0 < len(captions) == len(image):
        given = f"{len(captions)} captions for {len(image)} images"
        raise InputError(given, "one image number a caption, at least one caption", "pass both")
    if min(image) < 0 or max(image) >= len(objects_by_image):
        given = f"image numbers {min(image)} to {max(image)} for {len(objects_by_image)} images"
        raise InputError(given, "places in objects_by_image", "pass the objects of every image")
    found = [
        [is_wrong for _, is_wrong in hallucinated(text, objects_by_image[place], vocabulary)]
        for text, place in zip(captions, image, strict=True)
    ]
    mentions = [is_wrong for caption in found for is_wrong in caption]
    of = [place for caption, place in zip(found, image, strict=True) for _ in caption]
    return {
        "chair_i": proportion(mentions, of, seed) if mentions else Score(0.0, 0.0, 1.0, 0),
        "chair_s": proportion([any(caption) for caption in found], places, seed),
        "chair_mentions": bootstrap_mean([len(caption) for caption in found], places, seed),
    }
