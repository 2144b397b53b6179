"""The page on models that others trained works as it is written, command by command."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("transformers", reason="needs the extra [hf]")

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from hf_folders import dual_folder, network_folder, save_clip_words
from open_clip_reference import open_clip_folder

from chiasm import cli
from chiasm.data.config import DataConfig
from chiasm.data.generated.scene_dataset import SceneDataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"

NETWORKS = {
    "BLIP": "BlipForConditionalGeneration",
    "BLIP-ITM": "BlipForImageTextRetrieval",
    "VILT": "ViltForQuestionAnswering",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the page names, as it supposes them."""
    for name, kind in NETWORKS.items():
        network_folder(tmp_path / name, kind)
    dual_folder(tmp_path / "CLIP", "clip")
    words = save_clip_words(tmp_path / "OPENCLIP")
    open_clip_folder(tmp_path / "OPENCLIP", words, True)
    dual_folder(tmp_path / "PICKLED", "clip")
    weights = tmp_path / "PICKLED" / "model.safetensors"
    torch.save(safetensors.torch.load_file(weights), tmp_path / "PICKLED" / "pytorch_model.bin")
    weights.unlink()
    (tmp_path / "PHOTOS").mkdir()
    scenes = SceneDataset("train", DataConfig(source="scenes", train_pictures=4, questions_per_picture=1), 0)
    for number in range(4):
        picture = scenes.example(number).inputs["image"].load()
        Image.fromarray(picture).save(tmp_path / "PHOTOS" / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_and_python_of_the_page(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a how-to that cannot be followed."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]
    assert len(lines) >= 14 and all(line.startswith("chiasm ") for line in lines)
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code and said.out.strip(), (line, said.err)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102  the page is ours
    assert "(2, 2)" in capsys.readouterr().out
    assert not list(here.rglob("*.partial"))
