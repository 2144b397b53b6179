"""What the tests of the command line share."""

import csv
import shutil
from pathlib import Path

import pytest
from command import Shell
from PIL import Image

from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig


@pytest.fixture
def chiasm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """`chiasm("ask", run, picture, "how many?")`."""
    return Shell(capsys, monkeypatch)


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be damaged."""
    shutil.copytree(tiny_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user brings: 40 pictures and a table; the picture of its fifth row is cut short, row 7 has no caption."""
    folder = tmp_path_factory.mktemp("own")
    scenes = SceneDataset("train", ScenesConfig(train_pictures=40, questions_per_picture=1), 0)
    rows = []
    for number in range(40):
        example = scenes.example(number)
        name = f"scene{number:02}.png"
        Image.fromarray(example.inputs["image"].load()).save(folder / name)
        question, caption = example.questions[0], example.captions[0].text
        split = "val" if number >= 32 else "train"
        rows.append([name, caption if number != 5 else "", question.text, question.answers[0], split])
    broken = folder / rows[3][0]
    broken.write_bytes(broken.read_bytes()[:90])
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption", "question", "answer", "split"], *rows])
    return folder
