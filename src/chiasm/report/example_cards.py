"""The cards of the report page: an answered question, a described image, a search, an image of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.report.html import Markup, element, image_element, join, said

Image = npt.NDArray[np.uint8]
"""uint8 [h, w, 3] RGB."""


@dataclass(frozen=True, slots=True)
class QuestionCard:
    """One answered question."""

    image: Image
    question: str
    kind: str
    answer: str
    confidence: float
    """In [0, 1]."""
    truth: str
    right: bool
    abstains: bool = False
    """True if the model abstains; `answer` is then only its most probable answer."""


@dataclass(frozen=True, slots=True)
class CaptionCard:
    """One described image."""

    image: Image
    captions: Mapping[str, str]
    """ISO 639-1 code (or "") -> the model's sentence."""
    truth: str
    right: bool | None = None
    """None where captions have no exact truth."""
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One image that a search returned."""

    image: Image
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class SearchCard:
    """A sentence and the nearest images, best first."""

    sentence: str
    hits: Sequence[SearchHit]
    rank: int | None = None
    """1-based place of the right image among all that were searched."""
    searched: int | None = None
    """Number of images that were searched."""


@dataclass(frozen=True, slots=True)
class DrawingCard:
    """One image drawn for a caption."""

    caption: str
    image: Image
    real: Image
    """The image that the caption was written for."""
    nearest: Image | None
    """The training image that is most like the drawn one; None where none was looked for."""
    distance: float
    """From it; 0 is the same image."""
    looked_at: int
    """Training images that were compared."""
    overlap: tuple[int, int] | None
    """Objects that image and caption share, and objects in either; None without a judge."""


@dataclass(frozen=True, slots=True)
class BatchImage:
    """An image of a training batch with its texts."""

    image: Image
    texts: Sequence[str]


def _verdict(right: bool) -> Markup:
    return element(
        "span", "✓ right" if right else "✗ wrong", class_="verdict is-right" if right else "verdict is-wrong"
    )


def question_card(card: QuestionCard, photo_px: int) -> Markup:
    """Image, question, answer with its verdict, the true answer if it differs, and the confidence."""
    is_right = element("span", "? abstains", class_="verdict is-unsure") if card.abstains else _verdict(card.right)
    guess = "its guess: " if card.abstains else None
    sure = f"{100 * card.confidence:.0f} % sure"
    meter = element("span", Markup(), class_="meter-fill", style=f"width:{100 * min(max(card.confidence, 0), 1):.0f}%")
    text = element(
        "div",
        element("p", said(card.kind), class_="kind") if card.kind else None,
        said(card.question, "p", "asked"),
        element("p", element("span", guess, said(card.answer, "strong")), " ", is_right, class_="answer"),
        None if card.right else element("p", "truth: ", said(card.truth, "strong"), class_="truth"),
        element("p", element("span", meter, class_="meter", aria_hidden="true"), sure, class_="sure muted"),
        class_="card-text",
    )
    return element("article", image_element(card.image, f"Image for: {card.question}", photo_px), text, class_="card")


def caption_card(card: CaptionCard, photo_px: int) -> Markup:
    """Image, the model's sentences, their verdict, and a true sentence where they are not right."""
    lines = [
        element(
            "p",
            element("span", language, class_="tongue") if language else None,
            said(sentence, language=language),
            class_="caption",
        )
        for language, sentence in card.captions.items()
    ]
    verdict = None if card.right is None else element("p", _verdict(card.right), class_="answer")
    truth = None if card.right else element("p", "truth: ", said(card.truth), class_="truth")
    text = element("div", *lines, verdict, truth, class_="card-text")
    return element("article", image_element(card.image, f"Described as: {card.truth}", photo_px), text, class_="card")


def search_card(card: SearchCard, photo_px: int) -> Markup:
    """A sentence, the nearest images, and the place of the right one."""
    hits = []
    for place, hit in enumerate(card.hits, 1):
        words = f"{place}. {hit.similarity:.2f}"
        match = join(" ", element("span", "✓ match", class_="is-right")) if hit.is_match else None
        image = image_element(
            hit.image, f"Result {place}" + (", the right image" if hit.is_match else ""), photo_px // 2
        )
        hits.append(element("li", image, element("span", words, match), class_="hit match" if hit.is_match else "hit"))
    place_text = None
    if card.rank is not None:
        among = f" of {card.searched:,}" if card.searched else ""
        place_text = element("p", f"The right image is number {card.rank:,}{among}.", class_="muted")
    return element(
        "article", said(card.sentence, "p", "asked"), element("ol", *hits, class_="hits"), place_text, class_="search"
    )


def drawing_card(card: DrawingCard, photo_px: int) -> Markup:
    """The drawn image, the real one, and the nearest training image with its distance."""
    shown = [(card.image, "drawn"), (card.real, "real")]
    if card.nearest is not None:
        shown.append((card.nearest, f"nearest of {card.looked_at:,} training images, distance {card.distance:.2f}"))
    images = [
        element(
            "li", image_element(image, f"{what}: {card.caption}", photo_px // 2), element("span", what), class_="hit"
        )
        for image, what in shown
    ]
    verdict = None
    if card.overlap is not None:
        shared, either = card.overlap
        verdict = element("p", _verdict(shared == either), f" {shared} of {either} objects", class_="answer")
    return element(
        "article", said(card.caption, "p", "asked"), element("ol", *images, class_="hits"), verdict, class_="search"
    )


def batch_card(card: BatchImage, photo_px: int) -> Markup:
    """An image above its texts."""
    texts = element("figcaption", *(said(text, "p") for text in card.texts))
    return element(
        "figure", image_element(card.image, "Training image: " + "; ".join(card.texts), photo_px // 2), texts
    )
