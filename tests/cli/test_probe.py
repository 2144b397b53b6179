"""`chiasm probe`: classes that a run was not trained on, from files to table and JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import Shell, assert_refused
from PIL import Image

HUES = {"red_things": (220, 40, 40), "blue_things": (40, 40, 220), "green_things": (40, 190, 60)}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three hues in `train/CLASS` and `test/CLASS`."""
    root = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 10)):
        for name, hue in HUES.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = random.normal(0, 40, (24, 24, 3)) + np.array(hue)
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / split / name / f"{number:02}.png")
    return root


def test_probe_measures_what_the_table_and_json_say(
    chiasm: Shell, tiny_run: Path, classes: Path, tmp_path: Path
) -> None:
    """Hues are linear in a tower's features: the probe must find them, and pictures dealt wrongly must not."""
    file = tmp_path / "probe.json"
    words = ("probe", tiny_run, "--data", classes, "--split", "test", "--json", file)
    said = chiasm(*words, "--shots", "1,4", "--draws", 3, "--mirror")
    assert said.code == 0, said.err
    found = json.loads(file.read_text())
    assert found["metrics"]["acc1"]["value"] >= 0.9 and found["metrics"]["acc1"]["n"] == 30
    assert found["blind"]["acc1"]["value"] < 0.7 and found["baseline"]["acc1"] == pytest.approx(1 / 3)
    assert found["counts"]["fitted"] + found["counts"]["choosing"] == 90 and found["counts"]["measured"] == 30
    assert set(found["few_shot"]) == {"1", "4"} and found["mirror"] is True
    for shot in found["few_shot"].values():
        assert len(shot["draws"]) == shot["n"] == 3 and shot["value"] == pytest.approx(np.mean(shot["draws"]))
    assert found["few_shot"]["4"]["value"] > found["zero_shot"]["acc1"]["value"] - 0.34
    assert found["weight_decay"]["acc1"][f"{found['weight_decay']['chosen']:g}"] == max(
        found["weight_decay"]["acc1"].values()
    )
    for part in ("acc1", "mean_per_class_recall", "zero-shot acc1", "4-shot acc1", "chance"):
        assert part in said.out
    again = chiasm(*words, "--shots", "1,4", "--draws", 3, "--mirror")
    assert again.out == said.out, "the draws are those of the seed, and features come of the cache"


def test_validation_is_measured_and_not_chosen_on(chiasm: Shell, tiny_run: Path, classes: Path, tmp_path: Path) -> None:
    """Guards against a weight decay chosen on what is measured: training is cut, and val is whole."""
    file = tmp_path / "probe.json"
    assert chiasm("probe", tiny_run, "--data", classes, "--json", file).code == 0
    counts = json.loads(file.read_text())["counts"]
    assert sum(counts.values()) == 90 and counts["choosing"] > 5 < counts["measured"] and counts["fitted"] > 50


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--shots", "1,x"), "--shots 1,x"),
        (("--shots", "99", "--split", "test"), "99 shots"),
        (("--draws", "1"), "--draws 1"),
        (("--set", "train.steps=3"), "train.steps"),
        (("--split", "nowhere"), "no split 'nowhere'"),
    ],
)
def test_wrong_words_are_refused(
    chiasm: Shell, tiny_run: Path, classes: Path, words: tuple[str, ...], part: str
) -> None:
    assert_refused(chiasm("probe", tiny_run, "--data", classes, *words), part)


def test_wrong_data_are_refused(chiasm: Shell, tiny_run: Path, classes: Path, own_files: Path, tmp_path: Path) -> None:
    """No labels; a class that training lacks; a measured picture that training holds."""
    assert_refused(chiasm("probe", tiny_run, "--data", own_files), "has no labels")
    for split in ("train", "test"):
        (tmp_path / split).symlink_to(classes / split)
    (tmp_path / "val" / "purple").mkdir(parents=True)
    (tmp_path / "val" / "red_things").mkdir()
    Image.fromarray(np.full((24, 24, 3), 90, np.uint8)).save(tmp_path / "val/purple/1.png")
    Image.fromarray(np.full((24, 24, 3), 91, np.uint8)).save(tmp_path / "val/red_things/1.png")
    assert_refused(chiasm("probe", tiny_run, "--data", tmp_path, "--split", "test"), "the class 'purple'")
    copy = (classes / "train/red_things/03.png").read_bytes()
    (tmp_path / "val/purple/1.png").write_bytes(copy)
    assert_refused(chiasm("probe", tiny_run, "--data", tmp_path), "03", "data.on_leak=drop")
