"""The scorer of drawing: an oracle gets full marks, a shuffled caption none, likelihoods are teacher forcing's."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.types import IMAGE, Example, Prediction
from chiasm.evaluate.evaluator import evaluate
from chiasm.models.image_sampling import SamplingConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.drawing import Drawing, DrawingConfig
from chiasm.tasks.drawing_requests import DrawRequest
from chiasm.tasks.scoring import Outcome, View
from drawing_pipeline import build, scene_examples, task_of

TEST = scene_examples("test", 24)
BY_TEXT = {caption.text: example for example in scene_examples("test", 24) for caption in example.captions}


@pytest.fixture
def pipeline() -> Pipeline:
    return build(task=DrawingConfig(images_drawn=10))


def oracle(*_: Any) -> list[Prediction]:
    """Draws the real image of each caption."""
    requests: Sequence[DrawRequest] = _[3]
    return [
        Prediction(one.caption, 0.5, {"seed": 0, "codes": []}, image=BY_TEXT[one.caption].inputs[IMAGE].load())
        for one in requests
    ]


def scored(pipeline: Pipeline, view: View = "seen", wanted: str = "", examples: Sequence[Example] = TEST) -> Outcome:
    return evaluate(pipeline, examples, view, wanted=wanted)


def test_true_images_are_true_and_shuffled_captions_are_not(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a judge that looks at another example's truth, or a blind score that is not blind."""
    monkeypatch.setattr(Drawing, "draw", oracle)
    seen, shuffled = scored(pipeline), scored(pipeline, "shuffled")
    assert seen.scores["whole_image_true"].value == seen.scores["objects_iou"].value == 1
    assert seen.scores["whole_image_true"].n == 10 and seen.scores["whole_image_true"].low < 1
    assert shuffled.scores["whole_image_true"].value == 0 and shuffled.scores["objects_iou"].value < 0.3
    assert set(seen.by_kind["whole_image_true"]) == {"en", "zh"}
    assert (
        [one.of for one in seen.drawn]
        == [one.of for one in shuffled.drawn]
        == [number * 24 // 10 for number in range(10)]
    )
    assert seen.items["objects_iou"].values.tolist() == [1.0] * 10


def test_a_half_right_image_counts_by_its_objects(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an overlap over the objects of the truth alone, which every further object leaves at 1."""
    overlaps = iter([(2, 2), (1, 3), (0, 4), (3, 4)])
    monkeypatch.setattr("chiasm.data.generated.scene_language.SceneTruth.overlap", lambda *_: next(overlaps))
    found = scored(replace_drawn(pipeline, 4))
    assert found.scores["whole_image_true"].value == 0.25
    assert found.scores["objects_iou"].value == pytest.approx((1 + 1 / 3 + 0 + 0.75) / 4)


def replace_drawn(pipeline: Pipeline, count: int) -> Pipeline:
    task = task_of(pipeline)
    task.config = replace(task.config, images_drawn=count)
    return pipeline


@pytest.mark.parametrize("view", ["seen", "shuffled", "no_text"])
def test_likelihoods_are_those_of_teacher_forcing(pipeline: Pipeline, view: View) -> None:
    """Guards against the caption of another row, a view that still reads its caption, and nats of a whole image."""
    task, examples = task_of(pipeline), TEST[:6]
    found = scored(replace_drawn(pipeline, 0), view, examples=examples)
    encoded = pipeline.encode_images([example.inputs[IMAGE] for example in examples])
    ids = task.ids_of(pipeline.model, encoded)
    nats = np.zeros((6, 6))
    for caption_of, example in enumerate(examples):
        for image in range(6):
            texts = ["" if view == "no_text" else caption.text for caption in example.captions]
            values, _ = task.token_log_probabilities(pipeline.model, pipeline.codec, ids[[image] * len(texts)], texts)
            nats[caption_of, image] = -float(values.mean())
    assert found.baseline["image_token_nats"] == pytest.approx(math.log(325))
    score = found.scores["image_token_nats"]
    assert score.n == len(found.items["image_token_probability"].values) == 12
    if view != "shuffled":
        assert score.value == pytest.approx(float(np.diag(nats).mean()), abs=1e-4)
    else:
        apart = [float(value) for value in found.items["image_token_nats"].values.reshape(6, 2).mean(1)]
        for caption_of, value in enumerate(apart):
            others = np.delete(nats[caption_of], caption_of)
            assert np.abs(others - value).min() < 1e-4
    assert not found.drawn


def test_one_wanted_metric_draws_nothing(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against validations that draw hundreds of images for a likelihood."""
    drawn: list[int] = []

    def count(*given: Any) -> list[Prediction]:
        drawn.append(len(given[3]))
        return oracle(*given)

    monkeypatch.setattr(Drawing, "draw", count)
    assert "whole_image_true" not in scored(pipeline, wanted="image_token_probability").scores and not sum(drawn)
    assert "whole_image_true" in scored(pipeline, wanted="whole_image_true").scores and sum(drawn) == 10
    assert not scored(pipeline, "no_picture").scores


def test_without_a_judge_a_few_are_drawn_for_the_report(pipeline: Pipeline) -> None:
    """Guards against two hundred drawings that nothing judges, twice."""
    plain = [replace(example, truth=None) for example in TEST]
    found = scored(pipeline, examples=plain)
    assert len(found.drawn) == 10 and all(one.overlap is None for one in found.drawn)
    assert "whole_image_true" not in found.scores and not scored(pipeline, "shuffled", examples=plain).drawn


def test_the_empty_caption_is_that_of_training(pipeline: Pipeline) -> None:
    """Guards against an empty text with an end token, which training never saw."""
    task, codec = task_of(pipeline), pipeline.codec
    dropped = Drawing(DrawingConfig(caption_dropout=0.999), pipeline.config.model).collate(TEST[:1], codec, 0, 0)
    assert dropped["caption_is_real"][0].tolist()[:2] == [True, False]
    ids = torch.zeros(1, 9, dtype=torch.long)
    values, _ = task.token_log_probabilities(pipeline.model, codec, ids, [""])
    from chiasm.core.types import TextTokens

    text = TextTokens(dropped["caption_ids"], dropped["caption_is_real"])
    logits = pipeline.model.heads["drawing"](pipeline.model.tower, text, ids)[2].log_softmax(-1)
    torch.testing.assert_close(values, logits[..., 0].detach())


def test_an_image_is_exact_where_greedy_drawing_gives_its_codes(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six images two are what greedy drawing makes of their captions, and one is that but for its last code."""
    task, examples = task_of(pipeline), [replace(one, captions=one.captions[:1]) for one in TEST[:6]]
    requests = [DrawRequest(one.captions[0].text) for one in examples]
    drawn = task.draw(pipeline.model, pipeline.codec, requests, SamplingConfig(temperature=0.0))
    encoded = pipeline.encode_images([example.inputs[IMAGE] for example in examples])
    ids = task.ids_of(pipeline.model, encoded)
    codes = torch.tensor([one.evidence["codes"] for one in drawn])
    ids[:3] = codes[:3]
    ids[2, -1] = (ids[2, -1] + 1) % 325
    assert not (ids[3:] == codes[3:]).all(1).any()
    monkeypatch.setattr(Drawing, "ids_of", lambda *_: ids)
    found = scored(replace_drawn(pipeline, 0), examples=examples)
    assert found.scores["image_tokens_exact"].value == pytest.approx(2 / 6)
    assert found.items["image_tokens_exact"].values.tolist() == [1, 1, 0, 0, 0, 0]
