"""Pictures of any size become one tensor; groups mean the same everywhere."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Example, Question, Stacked, Tokens
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.encoders import IMAGE_ENCODERS
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.objectives.answer import IGNORED
from chiasm.pipeline.batching import (
    FEATURES,
    Features,
    ahead,
    image_tensor,
    input_values,
    make_batch,
    pooled_features,
    stack_features,
    stack_images,
    to_model_range,
)
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Query, queries_of
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.codec import ANSWERS, Codec
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig, answer_vocabulary
from chiasm.train.config import RunConfig


def gradient_picture(height: int, width: int) -> np.ndarray:
    """Red grows downwards, green to the right."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    picture[..., 1] = np.linspace(0, 255, width).astype(np.uint8)
    return picture


@pytest.mark.parametrize("kind", ["conv", "efficientnet_lite0"])
def test_mixed_sizes_are_stacked_upright(kind: str) -> None:
    """Guards against swapped axes and channels: channels first, rows downwards, whatever the sizes."""
    resizing = IMAGE_ENCODERS[kind](size_px=16).preprocessing().resizing
    stacked = stack_images([gradient_picture(*size) for size in ((16, 16), (40, 20), (15, 60))], resizing)
    assert stacked.shape == (3, 3, 16, 16) and stacked.dtype == torch.uint8
    for picture in stacked.int():
        assert (picture[0].diff(dim=0) >= 0).all() and picture[0].diff(dim=1).abs().max() <= 1
        assert (picture[1].diff(dim=1) >= 0).all() and picture[1].diff(dim=0).abs().max() <= 1
        assert not picture[2].any()


def test_drawings_are_squeezed_and_photos_cut() -> None:
    """Guards against a lost edge: a squeezed wide picture keeps its whole green range, a cut one its middle."""
    wide = [gradient_picture(16, 64)]
    squeezed = stack_images(wide, ConvConfig(size_px=16).preprocessing().resizing)[0, 1]
    cut = stack_images(wide, EfficientNetLite0Config(size_px=16).preprocessing().resizing)[0, 1]
    assert squeezed.min() < 15 and squeezed.max() > 240
    assert cut.min() > 90 and cut.max() < 165


def test_pixels_become_minus_one_to_one() -> None:
    """Stated values: 0 is -1, 255 is 1; a tower trained on other numbers sees another picture."""
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_model_range(image, torch.float32).tolist() == pytest.approx([-1, -0.6, 1])
    assert to_model_range(image, torch.bfloat16).dtype == torch.bfloat16
    vectors = torch.tensor([0.0, 51, 255])
    assert to_model_range(vectors, torch.bfloat16).tolist() == [0, 51, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_of_a_frozen_tower_only_change_their_type(dtype: torch.dtype) -> None:
    """Guards against tokens scaled like pixels, float16 that meets float32 weights, and a mask turned into numbers."""
    tokens = Tokens(torch.full((2, 3, 4), 51).half(), torch.ones(2, 3, dtype=torch.bool), torch.full((2, 5), 255.0))
    found = to_model_range(tokens, dtype)
    assert isinstance(found, Tokens)
    assert found.values.dtype == found.pooled.dtype == dtype and found.is_real.dtype == torch.bool
    assert (found.values == 51).all() and (found.pooled.float() - 255).abs().max() <= 1


def test_cached_vectors_are_used_where_all_have_them(picture_files: Callable[[int], list[Example]]) -> None:
    """Guards against a batch half of vectors, half of pictures."""
    resizing = ConvConfig(size_px=16).preprocessing().resizing
    plain = picture_files(2)
    vectors = [Features(np.full(4, number, dtype=np.float32)) for number in range(2)]
    cached = [replace(e, inputs={**e.inputs, FEATURES: v}) for e, v in zip(plain, vectors, strict=True)]
    tokens = image_tensor(cached, resizing, 0)
    assert isinstance(tokens, Tokens) and tokens.pooled.tolist() == [[0] * 4, [1] * 4]
    assert torch.equal(tokens.values, tokens.pooled[:, None]) and tokens.is_real.tolist() == [[True], [True]]
    pixels = image_tensor([cached[0], plain[1]], resizing, 0)
    assert isinstance(pixels, torch.Tensor) and pixels.shape == (2, 3, 16, 16)


def test_workers_decode_and_change_nothing(picture_files: Callable[[int], list[Example]]) -> None:
    """Guards against a key that does nothing, and threads that hand pictures back in another order."""
    resizing, examples, threads = ConvConfig(size_px=16).preprocessing().resizing, picture_files(8), set[str]()

    def watched(example: Example) -> Example:
        def load() -> np.ndarray:
            threads.add(threading.current_thread().name)
            time.sleep(0.01)
            return example.inputs["image"].load()

        return replace(example, inputs={"image": replace(example.inputs["image"], load=load)})

    alone = image_tensor([watched(one) for one in examples], resizing, 1)
    assert threads == {threading.current_thread().name}
    assert torch.equal(image_tensor([watched(one) for one in examples], resizing, 4), alone) and len(threads) == 5


def test_grids_keep_their_rows_and_their_half() -> None:
    """Guards against cells turned into channels, and one picture's grid beside another's vector.

    float16 stays until the type that the model computes in is known: the batch is half as large.
    """
    rng = np.random.default_rng(0)
    features = [
        Features(rng.random(5, dtype=np.float32), rng.random((6, 3), dtype=np.float32).astype(np.float16))
        for _ in range(3)
    ]
    tokens = stack_features(features)
    assert tokens.values.dtype == torch.float16 and tokens.pooled.dtype == torch.float32
    assert tokens.values.shape == (3, 6, 3) and tokens.is_real.shape == (3, 6) and tokens.is_real.all()
    for row, one in enumerate(features):
        assert tokens.values[row].tolist() == one.values.tolist() and tokens.pooled[row].tolist() == one.pooled.tolist()
    with pytest.raises(AssertionError, match="some have none"):
        stack_features([features[0], Features(features[1].pooled)])


def test_pictures_are_as_wide_as_the_tower_says() -> None:
    """Guards against height and width swapped, and a square where the tower wants a driver's wide view."""
    resizing = ConvConfig(size_px=16, width_px=40).preprocessing().resizing
    stacked = stack_images([gradient_picture(*size) for size in ((16, 16), (40, 20), (15, 60))], resizing)
    assert stacked.shape == (3, 3, 16, 40) and stacked.dtype == torch.uint8
    for picture in stacked.int():
        assert picture[0, 0].max() < 30 and picture[0, -1].min() > 225
        assert picture[1, :, 0].max() < 30 and picture[1, :, -1].min() > 225


def test_groups_mean_the_same_in_every_batch(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against running numbers, which differ between processes, and equal pictures in two groups."""
    run = pipeline.config
    shown = [replace(examples[0], group="same"), examples[1], replace(examples[2], group="same"), examples[3]]
    batch = make_batch(shown, {}, pipeline.codec, run, 0)
    assert batch.ids == [example.id for example in shown]
    assert batch.group[0] == batch.group[2] and len(batch.group.unique()) == 3
    later = make_batch([shown[3], shown[2]], {}, pipeline.codec, run, 5)
    assert later.group.tolist() == [batch.group[3], batch.group[2]]


def test_fields_point_at_their_pictures(pipeline: Pipeline, config: RunConfig, examples: list[Example]) -> None:
    """Guards against a caption or question that belongs to the neighbour, and lost repeats."""
    tasks = build_tasks(
        {
            "captioning": CaptioningConfig(captions_per_picture=2),
            "retrieval": RetrievalConfig(captions_per_picture=2),
            "vqa": VqaConfig(),
        },
        config.model,
    )
    codec, tokenizer = pipeline.codec, pipeline.codec.tokenizer
    batch = make_batch(examples[:5], tasks, codec, config, 0)
    captions, texts, asked = (batch.by_task[name] for name in ("captioning", "retrieval", "vqa"))
    for ids, is_real, row in zip(
        captions["caption_ids"].tolist(), captions["caption_is_real"], captions["image_index"].tolist(), strict=True
    ):
        assert tokenizer.decode(ids[1:]) in {caption.text for caption in examples[row].captions}
        assert int(is_real.sum()) == ids.index(tokenizer.end_id) + 1
        language = "zh" if "有" in tokenizer.decode(ids[1:]) else "en"
        assert ids[0] == tokenizer.start_of(language)
    assert len(captions["image_index"]) == len(texts["image_index"]) == 10
    for ids, row in zip(texts["text_ids"].tolist(), texts["image_index"].tolist(), strict=True):
        assert ids[0] == tokenizer.start_id
        assert tokenizer.decode(ids[1:]) in {caption.text for caption in examples[row].captions}
    expected = [(row, q.text, q.answers[0]) for row, example in enumerate(examples[:5]) for q in example.questions]
    found = [
        (row, tokenizer.decode(asked["question_ids"][question, 1:].tolist()), codec.answers[answer])
        for row, question, answer in zip(
            *(asked[name].tolist() for name in ("image_index", "question_index", "answer")), strict=True
        )
    ]
    assert found == expected
    assert len(asked["question_ids"]) == len({text for _, text, _ in expected})


def test_an_unknown_answer_is_ignored(pipeline: Pipeline, config: RunConfig, examples: list[Example]) -> None:
    """Guards against an answer outside the vocabulary that is taught as answer number 0."""
    question = replace(examples[0].questions[0], answers=("never heard",))
    odd = replace(examples[0], questions=(question, *examples[0].questions[1:]))
    fields = make_batch([odd], build_tasks({"vqa": VqaConfig()}, config.model), pipeline.codec, config, 0).by_task[
        "vqa"
    ]
    assert fields["answer"][0] == IGNORED and (fields["answer"][1:] >= 0).all()


def test_answers_are_ordered_by_frequency(examples: list[Example]) -> None:
    """Guards against an order that depends on the order of examples: ties go by the alphabet."""
    answers = answer_vocabulary(examples)
    counts = dict.fromkeys(answers, 0)
    for example in examples:
        for question in example.questions:
            counts[question.answers[0]] += 1
    assert answers == answer_vocabulary(examples[::-1])
    ranks = [(-counts[answer], answer) for answer in answers]
    assert ranks == sorted(ranks) and len(set(answers)) == len(answers)


def test_one_answer_in_several_spellings_is_one_class(examples: list[Example]) -> None:
    """Guards against "Yes" and "yes" that share out the probability of one answer, and teach against each other."""
    told = ["Yes", "yes", "yes ", "NO", "No", "No", "maybe"]
    questions = tuple(Question("is it?", (answer,)) for answer in told)
    answers = answer_vocabulary([replace(examples[0], questions=questions)])
    assert answers == ("No", "Yes", "maybe")
    codec = Codec(TextTokenizer.train(["is it"], 50, 8, ("en",)), {ANSWERS: answers})
    assert [codec.answer_index(one) for one in ("YES", " no", "Maybe", "never")] == [1, 0, 2, None]


def test_predictions_do_not_depend_on_the_batch(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a served answer that differs from the evaluated one because others were asked with it."""
    vqa, captioning = pipeline.tasks["vqa"], pipeline.tasks["captioning"]
    image = pipeline.encode_images([example.inputs["image"] for example in examples[:4]])
    questions = ["how many objects are there?", "有几个物体？", "is there a red circle?", "how many objects are there?"]
    together = vqa.predict(pipeline.model, pipeline.codec, {IMAGE: image}, queries_of(questions, [3, 0, 1, 2]))
    for prediction, question, row in zip(together, questions, [3, 0, 1, 2], strict=True):
        alone = vqa.predict(
            pipeline.model, pipeline.codec, {IMAGE: image.rows(torch.tensor([row]))}, [Query(0, question)]
        )[0]
        assert alone.answer == prediction.answer
        assert alone.confidence == pytest.approx(prediction.confidence, abs=1e-5)
        ranked = prediction.evidence["answers"]
        assert ranked[0] == {"answer": prediction.answer, "probability": prediction.confidence} and len(ranked) == 3
        assert ranked[0]["probability"] >= ranked[1]["probability"] >= ranked[2]["probability"]
    assert vqa.predict(pipeline.model, pipeline.codec, {IMAGE: image}, []) == []
    written = captioning.predict(
        pipeline.model, pipeline.codec, {IMAGE: image}, [Query(row, language="zh") for row in range(len(image.pooled))]
    )
    for row, prediction in enumerate(written):
        alone = captioning.predict(
            pipeline.model, pipeline.codec, {IMAGE: image.rows(torch.tensor([row]))}, [Query(0, language="zh")]
        )[0]
        assert alone.answer == prediction.answer and prediction.evidence["language"] == "zh"
        assert 0 < prediction.confidence <= 1
        assert alone.confidence == pytest.approx(prediction.confidence, abs=1e-5)


def cached(number: int, grid: bool = False) -> Features:
    return Features(np.full(4, number, dtype=np.float32), np.full((3, 5), number, dtype=np.float16) if grid else None)


@pytest.mark.parametrize("grid", [False, True])
def test_cached_features_of_several_images_and_of_none_are_placed_by_row(grid: bool, config: RunConfig) -> None:
    """Guards against features of one example in another, and a text alone that has an image."""
    few = [(cached(1, grid), cached(2, grid)), (), cached(3, grid)]
    batch = [Example(f"{number}", {FEATURES: one}) for number, one in enumerate(few)]
    value = image_tensor(batch, config.model.image.preprocessing().resizing, 1)
    assert isinstance(value, Stacked) and isinstance(value.values, Tokens)
    assert (value.row.tolist(), value.rows, value.values.pooled[:, 0].tolist()) == ([0, 0, 2], 3, [1.0, 2.0, 3.0])
    moved = Batch(["a", "b", "c"], {IMAGE: value}, torch.zeros(3)).to(torch.device("cpu"), torch.bfloat16).inputs[IMAGE]
    assert isinstance(moved, Stacked) and isinstance(moved.values, Tokens)
    assert moved.values.pooled.dtype == moved.values.values.dtype == torch.bfloat16
    assert moved.values.is_real.dtype == torch.bool
    ranged = to_model_range(value, torch.float32)
    assert isinstance(ranged, Stacked) and isinstance(ranged.values, Tokens)
    assert ranged.values.values.dtype == torch.float32 and ranged.values.values.flatten()[0] == 1
    alone = image_tensor([batch[2], batch[2]], config.model.image.preprocessing().resizing, 1)
    assert isinstance(alone, Tokens)
    assert input_values(batch[1:2], config.model, 1, config.model.image.preprocessing().resizing) == {}


def test_the_pooled_features_of_several_images_are_their_mean() -> None:
    """Guards against a class that is fitted on the first image of several, and zeros for none."""
    assert pooled_features(Example("a", {FEATURES: cached(3)}))[0] == 3
    assert pooled_features(Example("a", {FEATURES: (cached(1), cached(2))})).tolist() == [1.5] * 4
    with pytest.raises(InputError, match="the example has no image"):
        pooled_features(Example("a", {FEATURES: ()}))


def test_the_next_item_is_worked_on_while_one_is_used() -> None:
    """Guards against work that waits for its caller, results out of order, and an error that is lost in the thread."""
    began = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        began[item].set()
        if item == 3:
            raise ValueError("the fourth")
        return item * 10

    found = []
    with pytest.raises(ValueError, match="the fourth"):  # noqa: PT012  the loop is what raises
        for result in ahead(work, range(4)):
            assert began[len(found) + 1].wait(10), "the next one has begun"
            found.append(result)
    assert found == [0, 10, 20]
    assert list(ahead(work, [])) == []
