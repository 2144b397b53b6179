"""A small untrained pipeline with all three tasks, and pictures in files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.types import Caption, Example, Source
from chiasm.data.image_refs import image_ref
from chiasm.data.opening import open_dataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig


@pytest.fixture(scope="session")
def config() -> RunConfig:
    """The demo with small towers."""
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    text = replace(demo.model.text, max_tokens=60)
    model = replace(demo.model, dim=16, embedding_dim=8, image=image, text=text)
    return replace(demo, model=model, data=replace(demo.data, questions_per_picture=4))


@pytest.fixture(scope="session")
def examples(config: RunConfig) -> list[Example]:
    """Generated scenes with captions in two languages and questions."""
    dataset = open_dataset(config.data, "train", 0)
    return [dataset.example(index) for index in range(24)]


@pytest.fixture
def pipeline(config: RunConfig, examples: list[Example]) -> Pipeline:
    """Untrained, but with weights far from zero, so that every answer depends on them."""
    made = Pipeline.build(config, examples, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


@pytest.fixture
def picture_files(tmp_path: Path) -> Callable[[int], list[Example]]:
    """Write pictures of different sizes; each becomes an example with a caption."""

    def write(count: int) -> list[Example]:
        made = []
        for number in range(count):
            generator = np.random.default_rng(number)
            pixels = generator.integers(0, 256, (20 + 7 * number, 50 - 3 * number, 3), dtype=np.uint8)
            path = tmp_path / f"{number}.png"
            Image.fromarray(pixels).save(path)
            caption = Caption(f"picture number {number}", "en")
            made.append(Example(f"{number}", {"image": image_ref(path)}, (caption,), source=Source(path.name)))
        return made

    return write
