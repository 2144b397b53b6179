"""The task that trains an image tokenizer: what it needs, refuses, scores and says."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example, Score
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.stepwise import finish_step
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query
from chiasm.tasks.reconstruction import Reconstruction, ReconstructionConfig, image_tokenizer
from chiasm.train.config import RunConfig

MODEL = ModelConfig(dim=16, image=ImageCodesConfig(stride_px=16, width=48, decoder_blocks=1, continuous_steps=2))


@cache
def scenes() -> tuple[Example, ...]:
    dataset = open_dataset(ScenesConfig(train_pictures=64, eval_pictures=8), "train", 0)
    return tuple(dataset.example(index) for index in range(48))


@pytest.fixture
def pipeline() -> Pipeline:
    """A tokenizer whose codes have started on the scenes; no optimiser step was made."""
    config = RunConfig(
        recipe="mine", data=ScenesConfig(), model=MODEL, tasks={"reconstruction": ReconstructionConfig()}
    )
    made = Pipeline.build(config, scenes(), torch.device("cpu"))
    tower = image_tokenizer(made.model)
    batch = make_batch(scenes(), made.tasks, made.codec, made.config, 0)
    tower.train()
    for _ in range(4):
        tower(to_model_range(batch.inputs[IMAGE], torch.float32))
        finish_step(tower, tower)
    tower.eval()
    return made


def task(pipeline: Pipeline) -> Reconstruction:
    found = pipeline.tasks["reconstruction"]
    assert isinstance(found, Reconstruction)
    return found


def test_scores_are_those_of_hard_codes(pipeline: Pipeline) -> None:
    """Guards against scores of continuous vectors, of unrounded pixels, or of another image's pixels."""
    found = evaluate(pipeline, scenes())
    tower = image_tokenizer(pipeline.model)
    true = torch.stack([torch.from_numpy(one.inputs[IMAGE].load()).permute(2, 0, 1) for one in scenes()]).float() / 255
    made = (tower.pixels(tower.ids(true * 2 - 1)) * 255).round() / 255
    expected = [-10 * torch.log10((a - b).double().square().mean()).item() for a, b in zip(made, true, strict=True)]
    assert found.items["psnr"].values.tolist() == pytest.approx(expected, abs=0.05)
    assert found.scores["psnr"].value > found.baseline["psnr"] + 8
    assert set(found.scores) == {"psnr", "ssim", "codes_used", "code_perplexity", "varied_images"}
    assert found.scores["varied_images"].value == 1 and found.scores["codes_used"].value > 50
    assert "ssim" not in evaluate(pipeline, scenes(), wanted="psnr").scores


def test_another_image_is_no_reconstruction(pipeline: Pipeline) -> None:
    """Guards against a score that does not depend on the codes."""
    seen, shuffled, grey = (evaluate(pipeline, scenes(), view) for view in ("seen", "shuffled", "no_picture"))
    for blind in (shuffled, grey):
        assert blind.scores["psnr"].value < seen.scores["psnr"].value - 8
        assert "codes_used" not in blind.scores
    assert not evaluate(pipeline, scenes(), "no_text").scores


def test_a_prediction_has_the_codes(pipeline: Pipeline) -> None:
    """Guards against codes of another row, or as tensors."""
    encoded = {IMAGE: pipeline.encode_images([one.inputs[IMAGE] for one in scenes()[:3]])}
    asked = [Query(2), Query(0), Query(2)]
    found = task(pipeline).predict(pipeline.model, pipeline.codec, encoded, asked)
    ids = image_tokenizer(pipeline.model).ids_of(encoded[IMAGE].values).tolist()
    assert [one.evidence["codes"] for one in found] == [ids[2], ids[0], ids[2]]
    assert found[1].answer == " ".join(map(str, ids[0])) and found[1].evidence["rows"] == 3


def test_a_collapse_is_said_once_the_codes_have_started(pipeline: Pipeline) -> None:
    """Guards against a collapse that nobody hears of, and an alarm while the decoder sees continuous vectors."""

    def scores(perplexity: float, varied: float) -> dict[str, Score]:
        values = {"code_perplexity": perplexity, "varied_images": varied}
        return {name: Score(value, value, value, 9) for name, value in values.items()}

    for perplexity, varied in ((1.0, 0.0), (1.9, 1.0), (5.0, 0.4)):
        said = task(pipeline).alarm(pipeline.model, scores(perplexity, varied))
        assert "collapsed" in said and "model.image.continuous_steps" in said
    assert not task(pipeline).alarm(pipeline.model, scores(5.0, 0.9))
    assert not task(pipeline).alarm(pipeline.model, {})
    image_tokenizer(pipeline.model).steps.zero_()
    assert not task(pipeline).alarm(pipeline.model, scores(1.0, 0.0))


def test_what_does_not_fit_is_refused_before_training(pipeline: Pipeline) -> None:
    """Guards against an assertion in the first step."""
    for image in (ConvConfig(), ImageCodesConfig(frozen=True)):
        with pytest.raises(InputError, match=r"model\.image\."):
            Reconstruction(ReconstructionConfig(), replace(MODEL, image=image)).check()
    with pytest.raises(InputError, match="background_share"):
        ReconstructionConfig(background_share=0.0).check("tasks.reconstruction")
    one = scenes()[0].inputs[IMAGE]
    for images in ((), (one, one)):
        wrong = replace(scenes()[0], inputs={IMAGE: images})
        with pytest.raises(InputError, match="one image an example"):
            task(pipeline).check_examples(pipeline.model, pipeline.codec, [scenes()[0], wrong])
