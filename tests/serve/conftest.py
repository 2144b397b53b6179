"""A server of the tiny run on a free port, with an index of a few pictures."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from doors import Door, running
from PIL import Image

import chiasm
from chiasm.data.dataset import open_dataset
from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index, make_index


@pytest.fixture(scope="session")
def served_model(tiny_run: Path) -> Model:
    return chiasm.load(tiny_run)


@pytest.fixture(scope="session")
def files(served_model: Model) -> list[bytes]:
    """PNG files of scenes."""
    config = served_model.pipeline.config
    dataset = open_dataset(config.data, "test", config.seed)
    written = []
    for number in range(6):
        buffer = io.BytesIO()
        Image.fromarray(dataset.example(number).inputs["image"].load()).save(buffer, "PNG")
        written.append(buffer.getvalue())
    return written


@pytest.fixture(scope="session")
def index(served_model: Model, files: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of these files, in their order."""
    folder = tmp_path_factory.mktemp("indexed")
    for number, content in enumerate(files):
        (folder / f"{number}.png").write_bytes(content)
    made, _ = make_index(folder / "index", [folder], served_model)
    with made:
        yield made


@pytest.fixture(scope="session")
def door(served_model: Model, index: Index) -> Iterator[Door]:
    """A server with an index, for all tests that only ask it."""
    with running(Service(served_model, "demo", ServerSettings(max_body_bytes=2**20), index)) as open_door:
        yield open_door
