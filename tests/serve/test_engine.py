"""What is served is what was evaluated, whichever way a picture comes in and whoever stands beside it in a batch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.types import Example, ImageRef
from chiasm.data.image import ImageError
from chiasm.serve.engine import Model
from chiasm.serve.given import ImageInput, ref_of
from chiasm.tasks.scoring import Outcome

CLOSE = 1e-5
"""Sums over a batch of another size are rounded otherwise."""


def pixels(example: Example) -> np.ndarray:
    reference: ImageRef = example.inputs["image"]
    return reference.load()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, example in enumerate(examples):
        Image.fromarray(pixels(example)).save(folder / f"{number:02}.png")
    return folder


def test_served_answers_are_the_evaluated_ones(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against a second preprocessing, or one that depends on the rest of the batch: numbers nobody measured."""
    assert len(outcome.answered) > 100
    for one in outcome.answered[::9]:
        served = model.ask(pixels(examples[one.of]), one.question.text)
        assert served.answer == one.prediction.answer
        assert served.confidence == pytest.approx(one.prediction.confidence, abs=CLOSE)
        assert served.evidence["answers"][0]["answer"] == served.answer


def test_served_captions_are_the_evaluated_ones(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against captions that change with their neighbours in a batch, in either language."""
    for language in ("en", "zh"):
        expected = {
            one.of: one.prediction for one in outcome.captioned if one.prediction.evidence["language"] == language
        }
        together = model.caption([pixels(example) for example in examples], language)
        for number, served in enumerate(together):
            alone = model.caption([pixels(examples[number])], language)[0]
            assert served.answer == alone.answer == expected[number].answer
            assert served.confidence == pytest.approx(expected[number].confidence, abs=CLOSE)
            assert alone.confidence == pytest.approx(expected[number].confidence, abs=CLOSE)


def test_served_vectors_are_the_evaluated_ones(model: Model, examples: list[Example], outcome: Outcome) -> None:
    """Guards against a search that ranks by other vectors than those whose recall was reported."""
    together = model.encode_image([pixels(example) for example in examples])
    alone = np.concatenate([model.encode_image([pixels(example)]) for example in examples])
    np.testing.assert_allclose(together, outcome.image_embeddings, atol=CLOSE)
    np.testing.assert_allclose(alone, outcome.image_embeddings, atol=CLOSE)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    texts = model.encode_text([text for _, text in outcome.texts])
    np.testing.assert_allclose(texts, outcome.text_embeddings, atol=CLOSE)
    assert together.dtype == texts.dtype == np.float32
    similarity = [one.similarity for one in model.match(pixels(examples[0]), [text for _, text in outcome.texts])]
    np.testing.assert_allclose(similarity, outcome.text_embeddings @ outcome.image_embeddings[0], atol=CLOSE)


def test_picture_comes_in_four_ways(model: Model, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a way in that swaps colours or resizes differently."""
    array = pixels(examples[3])
    path, buffer = tmp_path / "one.png", io.BytesIO()
    Image.fromarray(array).save(path)
    Image.fromarray(array).save(buffer, "PNG")
    ways: list[ImageInput] = [path, str(path), buffer.getvalue(), Image.fromarray(array), array]
    vectors = [model.encode_image([way])[0] for way in ways]
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    assert not np.allclose(model.encode_image([array[..., ::-1].copy()])[0], vectors[0], atol=1e-3)
    answers = [model.ask(way, "how many circles are there?") for way in ways]
    assert all(answer == answers[0] for answer in answers)


def test_nothing_in_nothing_out(model: Model) -> None:
    """Guards against a crash on an empty list, which is a valid list."""
    width = model.pipeline.config.model.embedding_dim
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, width)
    assert model.caption([]) == []


def test_one_gives_one_and_a_list_gives_a_list(model: Model, examples: list[Example]) -> None:
    """Guards against a single text read letter by letter, and a list of one that loses its list."""
    picture, other, words = pixels(examples[0]), pixels(examples[1]), "a red circle"
    labels = ["a red circle", "a blue square"]
    calls: list[Callable[[Any], Any]] = [model.caption, lambda given: model.classify(given, labels)]
    for call in [*calls, lambda given: model.match(given, words), lambda given: model.ask(given, "how many circles?")]:
        (alone,) = call([picture])
        assert call(picture) == alone and len(call([picture, other])) == 2
    for encode, given in ((model.encode_image, picture), (model.encode_text, words)):
        np.testing.assert_array_equal(encode(given), encode([given])[0])
    both = np.stack([picture, picture[:, ::-1]])
    assert model.encode_image(both).shape == (2, model.pipeline.config.model.embedding_dim)
    assert model.classify(picture, labels, "a picture of {label}") == model.classify(
        picture, labels, ["a picture of {label}"]
    )


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (lambda model, picture: model.ask(picture, " "), "question is ' '"),
        (lambda model, picture: model.match(picture, ["a", ""]), "text is ''"),
        (lambda model, picture: model.encode_text(" "), "text is ' '"),
        (lambda model, picture: model.caption([picture], "de"), "language 'de'"),
        (lambda model, picture: model.ask(picture.astype(np.float32), "how many?"), "float32"),
        (lambda model, picture: model.ask(b"", "how many?"), "the file has no bytes"),
        (lambda model, picture: model.ask(b"GIF89a", "how many?"), "upload"),
        (lambda model, picture: model.ask("no such file.png", "how many?"), "no such file.png"),
    ],
)
def test_wrong_input_is_said(
    call: Callable[[Model, np.ndarray], object], given: str, model: Model, examples: list[Example]
) -> None:
    """Guards against an answer about nothing, and errors that only a reader of the source understands."""
    with pytest.raises(InputError) as caught:
        call(model, pixels(examples[0]))
    assert given in caught.value.given and caught.value.allowed and caught.value.do


def test_untrained_task_is_named(model: Model, monkeypatch: pytest.MonkeyPatch, examples: list[Example]) -> None:
    """Guards against an answer of a head that was never trained."""
    monkeypatch.delitem(model.pipeline.tasks, "vqa")
    with pytest.raises(InputError, match="not trained for vqa") as caught:
        model.ask(pixels(examples[0]), "how many circles are there?")
    assert "retrieval, captioning" in caught.value.allowed


def test_error_of_a_picture_is_wrong_input() -> None:
    """Guards against a broken picture that ends as a failed job (exit status 1) instead of wrong input (2)."""
    assert issubclass(ImageError, InputError)


def test_projected_tower_vectors_are_the_embeddings(model: Model, photos: Path) -> None:
    """Guards against a search over a frozen tower's cache that ranks by other vectors than evaluation does."""
    refs = [ref_of(path) for path in sorted(photos.glob("*.png"))[:3]]
    said = model.pipeline.encode_images(refs).pooled.numpy()
    np.testing.assert_allclose(model.project(said), model.encode_image(refs), atol=1e-6)
