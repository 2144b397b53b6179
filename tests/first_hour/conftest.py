"""What the tests of the first hour share: a shell, generated photos, and a short training."""

from pathlib import Path

import pytest
from command import Shell
from layouts import Photo, photos
from shortly import Trainer


@pytest.fixture
def chiasm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """`chiasm("train", "clip", "--tiny")` runs in this process."""
    return Shell(capsys, monkeypatch)


@pytest.fixture(scope="session")
def rows() -> list[Photo]:
    """Generated photos with words."""
    return photos()


@pytest.fixture
def train(chiasm: Shell, tmp_path: Path) -> Trainer:
    """`train(folder, "data.languages=zh")`; the run folder is `train.out`."""
    return Trainer(chiasm, tmp_path / "run")
