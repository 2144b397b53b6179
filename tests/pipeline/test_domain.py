"""What a run knows of its own training data: fitted alike each time, kept in its folder, and no part of an answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import Domain, Example, Prediction, Tokens
from chiasm.data.dataset import ListDataset, examples_of
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.pipeline.domain import FILE, METADATA_KEY, DomainModel, image_features
from chiasm.pipeline.domain_fitting import fit_domain
from chiasm.pipeline.feature_cache import encode_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import check_same_answers
from chiasm.train.config import RunConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(config: RunConfig) -> tuple[list[Example], list[Example]]:
    """Scenes to fit on, and others."""
    train, val = (open_dataset(config.data, name, 0) for name in ("train", "val"))
    return [train.example(n) for n in range(160)], [val.example(n) for n in range(32)]


@pytest.fixture
def fitted(pipeline: Pipeline, split: tuple[list[Example], list[Example]]) -> Pipeline:
    pipeline.domain = fit_domain(pipeline, *split)
    return pipeline


def noise(count: int, size_px: int = 48) -> list[Example]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    return [Example(f"noise {n}", {"image": image_ref_from_array(one)}) for n, one in enumerate(pixels)]


def judged(pipeline: Pipeline, examples: list[Example], texts: list[str], kind: str = "questions") -> list[Domain]:
    assert pipeline.domain is not None
    tokens = pipeline.encode_images([one.inputs["image"] for one in examples])
    return pipeline.domain.judge(tokens, None, texts, kind)


def test_strangers_are_outside_and_validation_is_not(
    fitted: Pipeline, split: tuple[list[Example], list[Example]]
) -> None:
    """Guards against distances that are not in units of the limit, and limits fitted on training."""
    own = judged(fitted, split[1], [one.questions[0].text for one in split[1]])
    assert not any(one.is_outside for one in own)
    # 32 images are too few for 1 %: the limit lies beyond all of them; of 128 questions the farthest is the limit.
    questions = [one.text for example in split[1] for one in example.questions]
    assert fitted.domain is not None
    assert max(fitted.domain.texts["questions"].distances(questions)) == pytest.approx(1)
    strange = judged(fitted, noise(8), ["what is the meaning of life?"] * 8)
    assert all(one.reasons == ("image_out_of_domain", "text_out_of_domain") for one in strange)
    assert strange[0].unknown_words == ("meaning", "life")


def test_a_text_is_judged_as_what_it_is(fitted: Pipeline, split: tuple[list[Example], list[Example]]) -> None:
    """Guards against captions measured by questions; and texts that no task of the run reads are not judged."""
    caption = split[1][0].captions[0].text
    as_caption, as_question = (judged(fitted, split[1][:1], [caption], kind)[0] for kind in ("captions", "questions"))
    assert not as_caption.is_outside and as_question.reasons == ("text_out_of_domain",)
    assert judged(fitted, split[1][:1], ["a dog"], "riddles")[0].text_distance is None


def test_only_texts_that_are_read_are_kept(config: RunConfig, split: tuple[list[Example], list[Example]]) -> None:
    """Guards against a captioning run that stores, and judges by, sentences it never reads."""
    only = replace(config, tasks={"captioning": config.tasks["captioning"]})
    made = fit_domain(Pipeline.build(only, split[0], CPU), *split)
    assert made.images is not None and not made.texts


def test_the_same_examples_give_the_same_bytes(fitted: Pipeline, split: tuple[list[Example], list[Example]]) -> None:
    """Guards against a fit that draws, and a file that differs from run to run."""
    assert fitted.domain is not None
    assert fit_domain(fitted, iter(split[0]), split[1]).to_bytes() == fitted.domain.to_bytes()


def test_a_run_folder_gives_it_back(
    tmp_path: Path, fitted: Pipeline, split: tuple[list[Example], list[Example]]
) -> None:
    """Guards against a loaded model that judges otherwise, and a folder whose manifest does not vouch for it."""
    fitted.save(tmp_path / "run", split[1][0], {})
    back = Pipeline.load(tmp_path / "run", CPU)
    texts = ["is there a dog?"] * 4
    some = [*split[1][:2], *noise(2)]
    assert judged(back, some, texts) == judged(fitted, some, texts)
    (tmp_path / "run" / FILE).write_bytes(b"")
    with pytest.raises(InputError, match=FILE):
        Pipeline.load(tmp_path / "run", CPU)


def test_the_stored_example_has_its_distance(fitted: Pipeline, split: tuple[list[Example], list[Example]]) -> None:
    """Guards against a tower whose answers are the same and whose features moved: the distance is compared as well."""
    stored = fitted.answers_of(split[1][0].inputs["image"], {})
    assert fitted.domain is not None and fitted.domain.images is not None
    images = replace(fitted.domain.images, mean=fitted.domain.images.mean + 0.1)
    fitted.domain = replace(fitted.domain, images=images)
    with pytest.raises(InputError, match="image_distance"):
        check_same_answers(stored, fitted.answers_of(split[1][0].inputs["image"], {}), Path("run"), fitted.model)


def test_a_folder_without_it_does_not_know(
    tmp_path: Path, pipeline: Pipeline, split: tuple[list[Example], list[Example]]
) -> None:
    """Guards against run folders of before that no longer open, or that call everything familiar."""
    pipeline.save(tmp_path / "run", split[1][0], {})
    assert not (tmp_path / "run" / FILE).exists()
    assert Pipeline.load(tmp_path / "run", CPU).domain is None


def test_another_version_is_refused(tmp_path: Path, fitted: Pipeline) -> None:
    """Guards against arrays read as something that they are not."""
    assert fitted.domain is not None
    arrays = safetensors.numpy.load(fitted.domain.to_bytes())
    (tmp_path / FILE).write_bytes(safetensors.numpy.save(arrays, {METADATA_KEY: '{"format": 2}'}))
    with pytest.raises(InputError, match="format version 2"):
        DomainModel.read(tmp_path)


def test_too_few_examples_judge_nothing(pipeline: Pipeline, split: tuple[list[Example], list[Example]]) -> None:
    """Guards against a limit out of one example."""
    made = fit_domain(pipeline, split[0], split[1][:1])
    assert made.images is None and list(made.texts) == ["captions", "questions"]
    nothing = fit_domain(pipeline, split[0], [replace(one, captions=(), questions=()) for one in split[1]])
    assert nothing.images is not None and not nothing.texts


def test_padded_tokens_do_not_count() -> None:
    """Guards against an image whose distance depends on how many tokens its neighbours have."""
    values = torch.arange(12.0).reshape(1, 3, 4)
    padded = Tokens(torch.cat([values, torch.full((1, 2, 4), 9e9)], 1), torch.arange(5)[None] < 3, values[:, 0])
    np.testing.assert_allclose(image_features(padded, True), values.mean(1).numpy())
    np.testing.assert_allclose(image_features(padded, False), values[:, 0].numpy())


def test_an_encoder_without_a_pooled_vector_is_judged_by_its_tokens(
    pipeline: Pipeline, split: tuple[list[Example], list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against ViLT, whose class token is one for all images before words meet it: none would be unlike."""
    encode = pipeline.model.encode_image

    def constant(image: torch.Tensor) -> Tokens:
        tokens = encode(image)
        return tokens._replace(pooled=torch.ones_like(tokens.pooled))

    monkeypatch.setattr(pipeline.model, "encode_image", constant)
    pipeline.domain = fit_domain(pipeline, *split)
    assert pipeline.domain.takes_mean
    assert DomainModel.to_bytes(pipeline.domain) and all(one.is_outside for one in judged(pipeline, noise(4), []))


def test_cached_features_give_the_same_distances(
    config: RunConfig, split: tuple[list[Example], list[Example]], tmp_path: Path
) -> None:
    """Guards against limits of a frozen tower's cache that do not fit what is encoded when a question comes in."""
    model = replace(config.model, image=replace(config.model.image, frozen=True))
    made = Pipeline.build(replace(config, model=model), split[0], CPU)
    cached = [
        examples_of(encode_images(made, ListDataset("", some, Ledger()), tmp_path, lambda done, total, what: None))
        for some in split
    ]
    assert fit_domain(made, *cached).to_bytes() == fit_domain(made, *split).to_bytes()


def test_reasons_join_confidence_and_domain() -> None:
    """Guards against one reason hiding the other, and against predictions that differ because of where they stand."""
    far = Domain(0.5, 3.0, ("life",))
    both = Prediction("red", 0.3, {"abstains": True}, domain=far)
    assert both.abstain_reasons == ("low_confidence", "text_out_of_domain")
    assert Prediction("red", 0.9, {"abstains": False}).abstain_reasons == ()
    assert both == replace(both, domain=None) and both != replace(both, confidence=0.4)
    assert both.as_dict()["domain"] == {
        "is_outside": True, "image_distance": 0.5, "text_distance": 3.0, "unknown_words": ["life"]
    }  # fmt: skip
