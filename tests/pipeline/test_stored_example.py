"""The example that a run folder keeps, where examples have several images or none."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import check_same_answers, choose_example


def test_of_several_images_the_first_is_stored_and_of_none_nothing(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a run that cannot be saved after training on conversations."""
    first, second = (example.inputs["image"] for example in examples[:2])
    pair = replace(examples[0], inputs={"image": (second, first)})
    files = pipeline.example_files(pair)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["example.png"]))), second.load())
    assert "example.json" in files and pipeline.example_files(replace(pair, inputs={})) == {}
    assert "example.json" not in pipeline.files(replace(pair, inputs={}))


def test_an_example_with_an_image_is_preferred(examples: list[Example]) -> None:
    """Guards against a text alone that is stored although others have images."""
    texts = [replace(example, inputs={}) for example in examples[:5]]
    assert choose_example([*texts, examples[7]]) is examples[7]
    assert choose_example(texts) in texts


@pytest.mark.parametrize(
    ("dtype", "difference", "is_same"),
    [
        (torch.float32, 0.004, True),
        (torch.float32, 0.02, False),
        (torch.bfloat16, 0.02, True),
        (torch.bfloat16, 0.2, False),
    ],
)
def test_numbers_are_compared_as_exactly_as_the_model_computes(
    dtype: torch.dtype, difference: float, is_same: bool
) -> None:
    """Guards against a run in bf16 that another number of threads cannot open, and a damaged one that opens."""
    stored, now = {"probability": 0.4, "told by an older version": "x"}, {"probability": 0.4 + difference}
    model = nn.Linear(2, 2).to(dtype)
    if is_same:
        check_same_answers(stored, now, Path("run"), model)
        return
    with pytest.raises(InputError, match="probability"):
        check_same_answers(stored, now, Path("run"), model)
