"""The task drawing: images by seed, caption dropout, what it refuses, and the shape of its answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE
from chiasm.models.encoders.minilm import MiniLMConfig
from chiasm.models.image_sampling import SamplingConfig
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query
from chiasm.tasks.drawing import Drawing, DrawingConfig
from chiasm.tasks.drawing_requests import DrawRequest
from drawing_pipeline import EXACT, REAL, build, config_of, scene_examples, task_of

CAPTION = "a large red circle top left, a small cyan square bottom"
CHINESE = "左上有大的红色圆形"
GUIDED = SamplingConfig(guidance=2.0)


@pytest.fixture(scope="module", params=[EXACT, REAL], ids=["exact codes", "a tokenizer"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return build(request.param)


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(pipeline: Pipeline) -> None:
    """Guards against an image that depends on its neighbours, on its place, or on what was drawn before."""
    task, model, codec = task_of(pipeline), pipeline.model, pipeline.codec
    requests = [DrawRequest(caption, seed) for caption in (CAPTION, CHINESE) for seed in range(18)]
    together = task.draw(model, codec, requests, GUIDED)
    for place in (0, 5, 20, 35):
        (alone,) = task.draw(model, codec, [requests[place]], GUIDED)
        assert alone == together[place] and alone.image is not None
        assert alone.image.tobytes() == together[place].image.tobytes()  # type: ignore[union-attr]
    assert len({str(one.evidence["codes"]) for one in together}) == len(requests)


def test_an_answer_is_the_image_of_its_codes(pipeline: Pipeline) -> None:
    """Guards against an image that its evidence does not identify."""
    (one,) = task_of(pipeline).predict(pipeline.model, pipeline.codec, {}, [Query(0, CAPTION)])
    tokenizer = pipeline.model.image_encoder
    expected = tokenizer.pixels(torch.tensor([one.evidence["codes"]]))[0].clamp(0, 1) * 255  # type: ignore[operator]
    assert one.answer == CAPTION and 0 < one.confidence < 1 and one.evidence["remarks"] == []
    assert one.image is not None and one.image.dtype == np.uint8
    assert one.evidence["grid"] == list(tokenizer.grid) and one.evidence["drawn_tokens"] == len(one.evidence["codes"])
    np.testing.assert_allclose(one.image, expected.permute(1, 2, 0).numpy(), atol=0.51)


def test_captions_are_dropped_by_example_and_epoch() -> None:
    """Guards against dropout that is the same in every epoch, that counts dropped words, or drops none."""
    pipeline = build(task=DrawingConfig(caption_dropout=0.5, captions_per_picture=2))
    task, codec, examples = task_of(pipeline), pipeline.codec, scene_examples()
    dropped = []
    for epoch in range(8):
        fields = task.collate(examples, codec, 0, epoch)
        is_dropped = ~fields["caption_is_real"][:, 1]
        assert (fields["caption_ids"][is_dropped, 1:] == codec.tokenizer.pad_id).all()
        assert bool(fields["caption_is_real"][:, 0].all())
        assert not fields["caption_is_real"][is_dropped, 1:].any()
        reverse = task.collate(examples[::-1], codec, 0, epoch)
        assert torch.equal((~reverse["caption_is_real"][:, 1]).view(-1, 2).flip(0).flatten(), is_dropped)
        dropped.append(is_dropped)
    share = torch.stack(dropped).float().mean()
    assert 0.35 < float(share) < 0.65 and not torch.equal(dropped[0], dropped[1])
    never = Drawing(DrawingConfig(caption_dropout=0.0), pipeline.config.model)
    assert never.collate(examples, codec, 0, 0)["caption_is_real"][:, 1].all()


def test_captions_of_both_languages_are_learned() -> None:
    """Guards against the first caption of an example being the only one."""
    pipeline = build()
    task, tokenizer = task_of(pipeline), pipeline.codec.tokenizer
    seen = set()
    for epoch in range(12):
        fields = task.collate(scene_examples()[:1], pipeline.codec, 0, epoch)
        seen.add(tokenizer.decode(fields["caption_ids"][0, 1:].tolist()))
    assert {caption.text for caption in scene_examples()[0].captions} <= {text.replace(" ,", ",") for text in seen}


def test_no_gradient_reaches_the_tokenizer() -> None:
    """Guards against codes that change under the prior."""
    pipeline = build(REAL)
    batch = make_batch(scene_examples()[:4], pipeline.tasks, pipeline.codec, pipeline.config, 0)
    encoded = pipeline.model.encode({IMAGE: to_model_range(batch.inputs[IMAGE], torch.float32)})
    task_of(pipeline).loss(pipeline.model, encoded, batch)["loss"].backward()
    assert all(one.grad is None for one in pipeline.model.image_encoder.parameters())
    assert all(one.grad is not None for one in pipeline.model.heads.parameters())


def test_the_stored_answer_is_a_number(pipeline: Pipeline) -> None:
    """Guards against a run folder that opens only on the machine whose rounding chose its tokens."""
    encoded = {IMAGE: pipeline.encode_images([scene_examples()[0].inputs[IMAGE]])}
    text = scene_examples()[0].captions[0].text
    smoke = task_of(pipeline).smoke(pipeline.model, pipeline.codec, encoded, {"text": text}, "en")
    assert list(smoke) == ["drawing_nats"] and 1 < smoke["drawing_nats"] < 60
    assert task_of(pipeline).smoke(pipeline.model, pipeline.codec, encoded, {}, "en") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": replace(EXACT, frozen=False)}, "model.image.frozen false"),
        ({"image": replace(EXACT, grid=False)}, "model.image.grid false"),
        ({"image": None}, "model.image.kind 'conv'"),
        ({"text": MiniLMConfig()}, "model.text.kind 'minilm'"),
    ],
)
def test_a_model_that_cannot_draw_is_refused(changes: dict[str, object], message: str) -> None:
    """Guards against a run that trains on codes which move, or has none."""
    model = config_of(EXACT).model
    changes = {"image": type(model)().image} if changes == {"image": None} else changes
    with pytest.raises(InputError, match=message):
        Drawing(DrawingConfig(), replace(model, **changes)).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_dropout": 1.0}, "caption_dropout"),
        ({"image_weight": 0.0}, "image_weight"),
        ({"text_weight": -1.0}, "text_weight"),
        ({"images_drawn": -1}, "images_drawn"),
        ({"sampling": SamplingConfig(top_p=0.0)}, "sampling.top_p"),
        ({"caption_dropout": 0.0, "sampling": GUIDED}, "caption_dropout 0"),
    ],
)
def test_a_config_out_of_range_is_refused(settings: dict[str, object], message: str) -> None:
    """Guards against settings that mean nothing."""
    with pytest.raises(InputError, match=message):
        DrawingConfig(**settings).check("tasks.drawing")  # type: ignore[arg-type]


def test_guidance_needs_a_run_that_knows_no_caption() -> None:
    """Guards against guidance away from what was never trained."""
    pipeline = build(task=DrawingConfig(caption_dropout=0.0))
    task, asked = task_of(pipeline), [DrawRequest(CAPTION)]
    assert task.draw(pipeline.model, pipeline.codec, asked)
    with pytest.raises(InputError, match="caption_dropout 0"):
        task.draw(pipeline.model, pipeline.codec, asked, GUIDED)
    with pytest.raises(InputError, match="the caption is ''"):
        task.draw(pipeline.model, pipeline.codec, [DrawRequest("")])
