"""A server of the tiny run on a free port, with an index of a few pictures."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from doors import Door, running
from PIL import Image

import chiasm
from chiasm.core.types import Example
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index, make_index
from chiasm.tasks.scoring import Outcome


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> Model:
    return chiasm.load(tiny_run)


@pytest.fixture(scope="session")
def examples(model: Model) -> list[Example]:
    """Scenes of the test split; an odd number, so that the last of a batch has no neighbour."""
    config = model.pipeline.config
    dataset = open_dataset(config.data, "test", config.seed)
    return [dataset.example(number) for number in range(21)]


@pytest.fixture(scope="session")
def outcome(model: Model, examples: list[Example]) -> Outcome:
    """What evaluation says of them."""
    return evaluate(model.pipeline, examples)


@pytest.fixture(scope="session")
def files(examples: list[Example]) -> list[bytes]:
    """PNG files of scenes."""
    written = []
    for example in examples[:6]:
        buffer = io.BytesIO()
        Image.fromarray(example.inputs["image"].load()).save(buffer, "PNG")
        written.append(buffer.getvalue())
    return written


@pytest.fixture(scope="session")
def index(model: Model, files: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of these files, in their order."""
    folder = tmp_path_factory.mktemp("indexed")
    for number, content in enumerate(files):
        (folder / f"{number}.png").write_bytes(content)
    made, _ = make_index(folder / "index", [folder], model)
    with made:
        yield made


@pytest.fixture(scope="session")
def door(model: Model, index: Index) -> Iterator[Door]:
    """A server with an index, for all tests that only ask it."""
    with running(Service(model, "demo", ServerSettings(max_body_bytes=2**20), index)) as open_door:
        yield open_door
