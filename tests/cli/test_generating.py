"""`chiasm generate`: a folder that a recipe trains on."""

import json
from pathlib import Path

import pytest
from command import Shell, assert_refused

from drawing_pipeline import REAL, build, scene_examples


@pytest.fixture(scope="module")
def drawing_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that draws, untrained."""
    folder = tmp_path_factory.mktemp("runs") / "drawing"
    build(REAL).save(folder, scene_examples("test")[0], {})
    return folder


def test_drawn_images_are_a_folder_to_train_on(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    captions, out = tmp_path / "captions.txt", tmp_path / "drawn"
    captions.write_text("a large red circle top left\n左上有大的红色圆形\n", encoding="utf-8")
    said = chiasm("generate", drawing_run, captions, "--out", out, "-n", 2, "--seed", 3, "--guidance", 2)
    assert said.code == 0, said.err
    assert f"4 images of 2 captions in {out}" in said.out
    rows = [json.loads(line) for line in (out / "train/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["caption"][0], row["seed"]) for row in rows] == [("a", 3), ("a", 4), ("左", 3), ("左", 4)]
    drawn = tmp_path / "one.png"
    words = ["a large red circle top left", "--seed", 4, "--guidance", 2, "--out", drawn]
    assert chiasm("draw", drawing_run, *words).code == 0
    assert (out / "train" / rows[1]["file_name"]).read_bytes() == drawn.read_bytes()


def test_wrong_words_are_refused_before_anything_is_drawn(drawing_run: Path, chiasm: Shell, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\n")
    assert_refused(chiasm("generate", drawing_run, tmp_path / "none.txt", "--out", tmp_path / "a"), "none.txt")
    assert_refused(chiasm("generate", drawing_run, captions, "--out", tmp_path), "exists")
    assert_refused(chiasm("generate", drawing_run, captions, "--out", tmp_path / "a", "-n", 0), "0 images")
    assert not (tmp_path / "a").exists()
