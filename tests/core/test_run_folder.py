"""A folder is what its manifest says, byte for byte, or it is refused by name."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.core.run_folder import (
    FORMAT,
    MANIFEST,
    newest_checkpoint,
    prune_checkpoints,
    step_folder,
    verify_folder,
    write_folder,
)

FILES = {"config.json": b'{"a": 1}\n', "model.safetensors": bytes(range(256)) * 8, "empty.jsonl": b""}


def flip_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\n",
    "one flipped bit": flip_bit,
    "zero-filled": lambda content: bytes(len(content)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete run folder with one file that it vouches for without having written it."""
    made = tmp_path / "run"
    made.mkdir()
    (made / "metrics.jsonl").write_bytes(b'{"step": 1}\n')
    write_folder(made, "run", FILES, keep=["metrics.jsonl"])
    return made


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in (*FILES, "metrics.jsonl") for damage in DAMAGES if FILES.get(name) != b""]
    + [("empty.jsonl", "deleted"), ("empty.jsonl", "one byte more")],
)
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    """Guards against a model served from half a file: every kind of damage to every file is found."""
    verify_folder(folder, "run")
    content = (folder / name).read_bytes()
    damaged = DAMAGES[damage](content)
    (folder / name).unlink()
    if damaged is not None:
        (folder / name).write_bytes(damaged)
    with pytest.raises(InputError, match=name):
        verify_folder(folder, "run")


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(folder: Path) -> None:
    """Guards against a damaged manifest that vouches for less, or that ends in a traceback."""
    content = (folder / MANIFEST).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        (folder / MANIFEST).write_bytes(damaged)
        with pytest.raises(InputError):
            verify_folder(folder, "run")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format": FORMAT + 1}, f"format version {FORMAT + 1}"),
        ({"format": None}, "format version None"),
        ({"kind": "checkpoint"}, "is a checkpoint folder"),
        ({"files": []}, "is a run folder"),
        ({"files": {"../run/config.json": {}}}, "plain file names"),
        ({"files": {"config.json": 3}}, "config.json"),
        ({"files": {"config.json": {}}}, "config.json"),
    ],
)
def test_another_manifest_is_refused(folder: Path, changes: dict[str, object], part: str) -> None:
    """Guards against guessing at a folder of another version, kind or shape."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))
    with pytest.raises(InputError) as caught:
        verify_folder(folder, "run")
    assert part in str(caught.value)


def test_a_run_of_the_format_before_opens_and_its_checkpoint_does_not(folder: Path) -> None:
    """Guards against a checkpoint whose tensors have other names and that is read half."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    verify_folder(folder, "run")
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 1, "kind": "checkpoint"}))
    with pytest.raises(InputError, match="format version 1"):
        verify_folder(folder, "checkpoint")


def test_what_is_no_complete_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Guards against a run that was stopped in its last second and looks finished."""
    with pytest.raises(InputError, match="does not exist"):
        verify_folder(tmp_path / "absent", "run")
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="has no MANIFEST"):
        verify_folder(folder, "run")
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(InputError, match="format version"):
        verify_folder(folder, "run")


def test_a_writer_killed_anywhere_leaves_no_mixture(tmp_path: Path) -> None:
    """Guards against a manifest that stands while its files change: after each death old, new, or refused."""
    code = (
        "import sys; from pathlib import Path; from chiasm.core import files; from chiasm.core.run_folder import *\n"
        "folder = Path(sys.argv[1]); content = lambda word: {'a': word * 9, 'b': word * 5}\n"
        "write_folder(folder, 'run', content(b'old'))\n"
        "files._crash_countdown = int(sys.argv[2])\nwrite_folder(folder, 'run', content(b'new'))\n"
    )
    seen = set()
    for countdown in range(40):
        folder = tmp_path / str(countdown)
        child = subprocess.run([sys.executable, "-c", code, str(folder), str(countdown)], check=False)
        try:
            verify_folder(folder, "run")
            state = (folder / "a").read_bytes()[:3] + (folder / "b").read_bytes()[:3]
        except InputError:
            state = b"refused"
        seen.add(state)
        if child.returncode == 0:
            break
    assert seen == {b"refused", b"newnew"}


def make_checkpoint(checkpoints: Path, step: int, is_complete: bool = True) -> Path:
    folder = step_folder(checkpoints, step)
    write_folder(folder, "checkpoint", {"state": f"{step}".encode() * 4})
    if not is_complete:
        (folder / MANIFEST).unlink()
    return folder


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_named(tmp_path: Path) -> None:
    """Guards against resuming from a damaged checkpoint, or from scratch where an older one is whole."""
    assert newest_checkpoint(tmp_path) == (None, [])
    good = make_checkpoint(tmp_path, 90)
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 100, is_complete=False)
    flipped = make_checkpoint(tmp_path, 110)
    (flipped / "state").write_bytes(flip_bit((flipped / "state").read_bytes()))
    found, problems = newest_checkpoint(tmp_path)
    assert found == good
    assert [("step-00000110" in one, "step-00000100" in one) for one in problems] == [(True, False), (False, True)]
    (good / MANIFEST).unlink()
    (step_folder(tmp_path, 10) / "state").unlink()
    found, problems = newest_checkpoint(tmp_path)
    assert found is None and len(problems) == 4


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 10**7), st.booleans(), max_size=7), st.integers(1, 4))
def test_pruning_keeps_the_newest_whole_ones(
    tmp_path_factory: pytest.TempPathFactory, steps: dict[int, bool], keep: int
) -> None:
    """Guards against deleting the checkpoint that a resume needs, and against torn ones that pile up."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    for step, is_complete in steps.items():
        make_checkpoint(checkpoints, step, is_complete)
    prune_checkpoints(checkpoints, keep)
    whole = sorted((step for step, is_complete in steps.items() if is_complete), reverse=True)
    expected = set(whole[:keep]) | {step for step, done in steps.items() if not done and step > max(whole, default=-1)}
    assert {int(path.name[5:]) for path in checkpoints.iterdir()} == expected
    assert newest_checkpoint(checkpoints)[0] == (step_folder(checkpoints, whole[0]) if whole else None)
