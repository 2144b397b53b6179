"""The caption-swap test against a slow loop, its blind score, and when `evaluate` prints it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.types import Caption, Example
from chiasm.data.hard_captions.swaps import choose_swap
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks import build_tasks
from chiasm.tasks.caption_swap import METRIC, SEED, caption_swaps
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig


def vector(text: str) -> np.ndarray:
    """Some unit vector of a text, by its characters."""
    found = np.array([text.count(letter) + 0.1 for letter in "abcdeghilnorstu"], dtype=np.float32)
    return found / np.linalg.norm(found)


def read(texts: Sequence[str]) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def test_outcomes_are_those_of_a_slow_loop() -> None:
    """Guards against a swap compared with another caption or picture, and ties that count as right."""
    numbers = np.random.default_rng(0)
    examples = [
        Example(
            f"{row}",
            {},
            (Caption(f"two red cars in front of {row} blue houses", "en"), Caption("no rule fits", "en"))
            + ((Caption("a dog jumps over a cat", "en"),) if row % 2 else ()),
            label="x" if row == 4 else None,
        )
        for row in range(8)
    ]
    images = numbers.normal(size=(8, 15)).astype(np.float32)
    images[3] = 0  # equally near to everything
    texts = read([one.text for e in examples if e.label is None for one in e.captions])
    captioned = [row for row, e in enumerate(examples) if e.label is None]
    found = caption_swaps(examples, captioned, images, texts, read)
    expected = []
    for row, example in enumerate(examples):
        for caption in example.captions if example.label is None else ():
            swap = choose_swap(example, caption, 1.0, SEED, 0)
            if swap is not None:
                gain = float(images[row] @ vector(caption.text)) - float(images[row] @ vector(swap.text))
                expected.append((0.5 if gain == 0 else float(gain > 0), row, swap.kind))
    assert list(zip(found.right.tolist(), found.of.tolist(), found.kinds, strict=True)) == expected
    assert {0.0, 0.5, 1.0} == set(found.right) and "no rule fits" not in found.kinds
    none = [Example("0", {}, (Caption("no rule fits", "en"),))]
    assert caption_swaps(none, [0], images[:1], read(["no rule fits"]), read).kinds == []


@pytest.fixture(scope="module")
def config() -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    model = replace(demo.model, dim=16, embedding_dim=8, image=replace(demo.model.image, channels=(4, 8), size_px=24))
    return replace(demo, model=model, tasks={"retrieval": RetrievalConfig(hard_negatives=0.5)})


def test_evaluate_has_it_where_the_option_is_on(config: RunConfig) -> None:
    """Guards against a metric that depends on the run's seed, and a blind score that can see or read."""
    dataset = open_dataset(config.data, "val", 0)
    examples = [dataset.example(number) for number in range(10)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    seen = evaluate(pipeline, examples)
    captions = sum(len(example.captions) for example in examples)
    assert seen.scores[METRIC].n == captions and seen.baseline[METRIC] == 0.5
    assert sum(score.n for score in seen.by_kind[METRIC].values()) == captions
    assert set(seen.by_kind[METRIC]) == {"attribute", "relation", "order"}
    assert evaluate(pipeline, examples, "no_text").scores[METRIC].value == 0.5
    assert (
        evaluate(pipeline, examples, "no_picture").items[METRIC].values.tolist() != seen.items[METRIC].values.tolist()
    )
    pipeline.tasks = build_tasks({"retrieval": RetrievalConfig()}, config.model)
    assert METRIC not in evaluate(pipeline, examples).scores


def test_pictures_with_captions_and_a_label_are_measured_on_both(config: RunConfig) -> None:
    """Guards against two rules for whose captions count, which ended the evaluation of such data."""
    dataset = open_dataset(config.data, "val", 0)
    examples = [replace(dataset.example(number), label="ab"[number % 2]) for number in range(10)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    seen = evaluate(pipeline, examples)
    assert seen.scores[METRIC].n == sum(len(example.captions) for example in examples)
    assert seen.scores["acc1"].n == 10 and "text_to_image_R@1" in seen.scores


def test_recall_is_told_for_each_language(config: RunConfig) -> None:
    """Guards against a mean over languages that hides a bad one."""
    dataset = open_dataset(config.data, "val", 0)
    examples = [dataset.example(number) for number in range(12)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    outcome = evaluate(pipeline, examples)
    for place, language in ((0, "en"), (1, "zh")):
        alone = evaluate(pipeline, [replace(one, captions=one.captions[place : place + 1]) for one in examples])
        for k in (1, 10):
            name = f"text_to_image_R@{k}"
            assert outcome.by_kind[name][language].value == alone.scores[name].value
