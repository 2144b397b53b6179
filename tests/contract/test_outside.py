"""A sense and a task from outside the package, of which nothing is changed: train, save, open, measure, leave out."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from outside import RANGE, RangeConfig, RangedColorConfig, RangedConfig, RangeRef, added
from rich.console import Console

from chiasm.core.config import from_dict, override, to_dict
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example, Stacked
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.pipeline.batching import input_values
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.run import run

METRIC = "ranged_color_accuracy"


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    with added():
        yield


def config(**train: object) -> RunConfig:
    """Scenes with range maps, and a model of both senses."""
    return RunConfig(
        recipe="outside",
        primary_metric=METRIC,
        data=RangedConfig(train_pictures=2048, eval_pictures=96),
        model=ModelConfig(
            dim=48,
            heads=2,
            fusion="merged_attention",
            fusion_layers=2,
            modality_dropout=0.0,
            image=ConvConfig(size_px=48, channels=(16, 32, 48, 48), layers=1),
            text=TransformerTextConfig(layers=1, max_tokens=8, vocabulary=100),
            inputs={RANGE: RangeConfig()},
        ),
        tasks={"ranged_color": RangedColorConfig()},
        train=TrainConfig(**{"steps": 300, "batch_size": 64, "lr": 2e-3, "precision": "fp32", **train}),  # type: ignore[arg-type]
    )


def test_an_input_without_an_encoder_is_refused() -> None:
    """Guards against a task whose input the model cannot encode: the key is named when the pipeline is built."""
    lacking = replace(config(), model=replace(config().model, inputs={}))
    dataset = open_dataset(lacking.data, "train", 0)
    with pytest.raises(InputError, match=r"model\.inputs\.range\.kind"):
        Pipeline.build(lacking, [dataset.example(number) for number in range(4)], torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outside") / "run"
    run(config(), place, False, Console(file=io.StringIO()))
    return place


def measured(pipeline: Pipeline, examples: list[Example]) -> float:
    return evaluate(pipeline, examples).scores[METRIC].value


def test_a_task_of_two_senses_needs_both(folder: Path) -> None:
    """Guards against a further input that is read and means nothing, in training or after loading."""
    pipeline = Pipeline.load(folder, torch.device("cpu"))
    dataset = open_dataset(pipeline.config.data, "test", 0)
    examples = [dataset.example(number) for number in range(96)]
    with_both = measured(pipeline, examples)
    without_range = measured(pipeline, [replace(one, inputs={IMAGE: one.inputs[IMAGE]}) for one in examples])
    without_image = evaluate(pipeline, examples, "no_picture").scores[METRIC].value
    assert with_both > 0.7, with_both
    assert with_both - without_range > 0.25 and with_both - without_image > 0.4, (without_range, without_image)


def test_a_config_of_a_further_input_is_typed() -> None:
    """Guards against inputs that no config file or `--set` can name."""
    made = config()
    assert from_dict(RunConfig, to_dict(made)) == made
    changed = override(replace(made, model=replace(made.model, inputs={})), ["model.inputs.range.kind=range_cells"])
    assert changed.model.inputs == {RANGE: RangeConfig()}
    with pytest.raises(InputError, match="means something for"):
        override(made, ["model.inputs.range.points=3"])


def test_an_example_may_have_several_values_or_none() -> None:
    """Guards against tokens of one example that reach another, and an absent input that is taken for a real one."""
    made = config()
    dataset = open_dataset(made.data, "test", 0)
    first, second, third = (dataset.example(number) for number in range(3))
    several = replace(first, inputs={IMAGE: (first.inputs[IMAGE], second.inputs[IMAGE]), RANGE: ()})
    batch = [several, replace(third, inputs={RANGE: third.inputs[RANGE]}), second]
    pipeline = Pipeline.build(made, [first, second, third], torch.device("cpu"))
    values = input_values(batch, made.model, 1, pipeline.resizing)
    assert isinstance(values[IMAGE], Stacked) and isinstance(values[RANGE], Stacked)
    encoded = pipeline.encode(values)
    alone = pipeline.encode_images([one.inputs[IMAGE] for one in (first, second)])
    length = alone.values.shape[1]
    torch.testing.assert_close(encoded[IMAGE].values[0], alone.values.flatten(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoded[IMAGE].pooled[0], alone.pooled.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoded[IMAGE].values[2, :length], alone.values[1], rtol=1e-5, atol=1e-5)
    assert encoded[IMAGE].is_real.sum(1).tolist() == [2 * length, 0, length]
    assert encoded[RANGE].is_real.any(1).tolist() == [False, True, True]
    assert set(input_values([several], made.model, 1, pipeline.resizing)) == {IMAGE}


def test_a_value_out_of_range_is_refused() -> None:
    """Guards against a modality whose check is never called."""
    made = config()
    example = open_dataset(made.data, "test", 0).example(0)
    broken = replace(example, inputs={**example.inputs, RANGE: RangeRef((99.0,) * 9)})
    pipeline = Pipeline.build(made, [example], torch.device("cpu"))
    with pytest.raises(InputError, match="a range map"):
        input_values([broken], made.model, 1, pipeline.resizing)
    assert np.asarray(example.inputs[IMAGE].load()).shape == (48, 48, 3)
