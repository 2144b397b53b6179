"""Photos with their words, for the tests of the index."""

from pathlib import Path

import pytest
from PIL import Image

from chiasm.core.types import Example
from chiasm.data.opening import open_dataset
from chiasm.serve.engine import Model


@pytest.fixture(scope="session")
def examples(model: Model) -> list[Example]:
    """Thirty scenes of the test split, with their captions."""
    dataset = open_dataset(model.pipeline.config.data, "test", model.pipeline.config.seed)
    return [dataset.example(number) for number in range(30)]


@pytest.fixture
def photos(tmp_path: Path, examples: list[Example]) -> Path:
    """The scenes as files, half of them in a folder of their own, one of them cut short."""
    folder = tmp_path / "photos"
    (folder / "even").mkdir(parents=True)
    for number, example in enumerate(examples):
        place = folder / ("even" if number % 2 == 0 else "") / f"{number:02}.png"
        Image.fromarray(example.inputs["image"].load()).save(place)
    (folder / "broken.png").write_bytes((folder / "01.png").read_bytes()[:90])
    return folder
