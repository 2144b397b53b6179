"""Alone, in a batch of mixed sizes and lengths, and in evaluation: the same answers, to the last bit."""

import numpy as np

from chiasm.core.types import Example
from chiasm.serve.engine import Model
from chiasm.tasks.scoring import Outcome

LABELS = ("red circle", "large blue square", "green triangle")


def pixels(examples: list[Example]) -> list[np.ndarray]:
    return [example.inputs["image"].load() for example in examples]


def test_answers(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against a question whose answer depends on who else asked, by the kernel or by a longer neighbour."""
    pictures = pixels(examples)
    asked = outcome.answered[::5]
    lengths = {len(model.pipeline.codec.tokenizer.ids(one.question.text)) for one in asked}
    assert len(asked) > 40 and len(lengths) > 4
    together = model.ask([pictures[one.of] for one in asked], [one.question.text for one in asked])
    for one, served in zip(asked, together, strict=True):
        assert served == one.prediction
    for one in asked[:12]:
        assert model.ask(pictures[one.of], one.question.text) == one.prediction


def test_captions(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against a caption or its confidence that changes with the other pictures."""
    pictures = pixels(examples)
    for language in ("en", "zh"):
        expected = [one.prediction for one in outcome.captioned if one.prediction.evidence["language"] == language]
        assert model.caption(pictures, language) == expected
        assert model.caption(pictures[:5], language) == expected[:5]
        assert [model.caption([picture], language)[0] for picture in pictures[:3]] == expected[:3]


def test_vectors_and_classes(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against a search or a class that is another one in a batch."""
    pictures = pixels(examples)
    texts = [text for _, text in outcome.texts]
    assert np.array_equal(model.encode_image(pictures), outcome.image_embeddings)
    assert np.array_equal(model.encode_text(texts), outcome.text_embeddings)
    for number in range(4):
        assert np.array_equal(model.encode_image(pictures[number : number + 1])[0], outcome.image_embeddings[number])
        assert np.array_equal(model.encode_text(texts[number : number + 1])[0], outcome.text_embeddings[number])
    together = model.classify(pictures, LABELS)
    assert [model.classify([picture], LABELS)[0] for picture in pictures[:4]] == together[:4]
    assert model.match(pictures, texts[: len(pictures)])[:3] == [
        model.match(picture, [text])[0] for picture, text in zip(pictures[:3], texts[:3], strict=True)
    ]


def test_pictures_of_many_sizes(model: Model, examples: list[Example]) -> None:
    """Guards against pictures that are resized with their neighbours, or kinds of input that cannot be mixed."""
    rng = np.random.default_rng(0)
    mixed = [rng.integers(0, 256, (17 + 9 * n, 90 - 5 * n, 3), dtype=np.uint8) for n in range(9)] + pixels(examples)[:3]
    questions = [
        "how many circles are there?",
        "有几个圆形？",
        "is the small red square left of the large blue circle?",
    ]
    questions = (questions * 4)[: len(mixed)]
    together = model.ask(mixed, questions)
    assert together == [model.ask(one, question) for one, question in zip(mixed, questions, strict=True)]
