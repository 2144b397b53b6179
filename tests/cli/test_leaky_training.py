"""Training on what is measured is refused at the command line before anything is built."""

import shutil
from pathlib import Path

from command import Shell, assert_nothing_half_written, assert_refused


def test_a_planted_validation_picture_ends_the_run_before_step_0(
    chiasm: Shell, own_files: Path, tmp_path: Path
) -> None:
    """Guards against a leak that only shows in too good a table; the copy has another name and other words."""
    shutil.copytree(own_files, tmp_path / "own")
    shutil.copy(tmp_path / "own/scene35.png", tmp_path / "own/scene11.png")
    words = ("train", "vqa", "--tiny", "--set", f"data.path={tmp_path / 'own'}", "--set", "train.precision=fp32")
    said = chiasm(*words, "--out", tmp_path / "run")
    assert_refused(said, "scene11", "scene35", "has the very bytes of", "data.on_leak=drop")
    assert_nothing_half_written(tmp_path / "run")
    wrong = chiasm(*words, "--set", "data.on_leak=ignore", "--out", tmp_path / "run")
    assert_refused(wrong, "data.on_leak", "refuse, drop, keep")
