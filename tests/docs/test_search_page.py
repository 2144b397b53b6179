"""The page on searching photos works as it is written, command by command."""

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "search.md"


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with RUN, PHOTOS and facts.csv, as the page supposes."""
    (tmp_path / "PHOTOS").mkdir()
    (tmp_path / "RUN").symlink_to(tiny_run)
    scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=12, questions_per_picture=1), 0)
    with open(tmp_path / "facts.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "place", "year"])
        for number in range(12):
            picture = scenes.example(number).inputs["image"].load()
            Image.fromarray(picture).save(tmp_path / "PHOTOS" / f"{number:02}.png")
            table.writerow([f"{number:02}.png", "Rome", 2020 + number % 2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_python_of_the_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a how-to that cannot be followed."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines() if line.strip()
    ]
    assert len(lines) >= 12 and all(line.startswith("chiasm ") for line in lines)
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code and said.out.strip(), (line, said.err)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102  the page is ours
    assert capsys.readouterr().out.count(".png") == 5
