"""Pickled weights: what is honest becomes safetensors, what is not is refused in a child that cannot do harm."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("transformers", reason="needs the extra [hf]")

from hf_folders import LINES, dual_folder, save_clip_words
from open_clip_reference import open_clip_folder

import chiasm
from chiasm.core import weights_only
from chiasm.core.errors import InputError
from chiasm.pipeline.interop.exporting import export
from chiasm.pipeline.interop.pickled import to_safetensors


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP whose weights are a pickle alone, with code of its own beside it."""
    folder = tmp_path_factory.mktemp("pickled") / "clip"
    dual_folder(folder, "clip")
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder.parent / "safe.safetensors")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    return folder


def test_a_pickled_folder_becomes_a_safe_one(clip: Path, tmp_path: Path) -> None:
    """Guards against a lost tensor, and against code that travels with the weights."""
    with pytest.raises(InputError, match="--to safetensors --out FOLDER"):
        chiasm.load(clip)
    converted = to_safetensors(clip, tmp_path / "out")
    before = safetensors.torch.load_file(clip.parent / "safe.safetensors")
    after = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert converted.count == len(before) and all(torch.equal(value, after[name]) for name, value in before.items())
    assert chiasm.load(tmp_path / "out").encode_text(LINES).shape == (len(LINES), 12)
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".py", ".bin")]


def test_a_training_checkpoint_of_open_clip_is_unwrapped(tmp_path: Path) -> None:
    """Guards the names that distributed training puts before every weight, and the optimiser beside them."""
    words = save_clip_words(tmp_path / "a")
    reference = open_clip_folder(tmp_path / "a", words, True)
    state = {f"module.{name}": value for name, value in reference.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {}}, tmp_path / "a" / "epoch_3.pt")
    (tmp_path / "a" / "open_clip_model.safetensors").unlink()
    to_safetensors(tmp_path / "a" / "epoch_3.pt", tmp_path / "b")
    after = safetensors.torch.load_file(tmp_path / "b" / "open_clip_model.safetensors")
    assert after.keys() == reference.state_dict().keys()
    assert chiasm.load(tmp_path / "b").encode_text(LINES).shape == (len(LINES), 12)


class Evil:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["code", "huge_from_little"])
def test_hostile_files_are_refused_and_do_nothing(kind: str, clip: Path, tmp_path: Path) -> None:
    """Guards against code in a pickle, and against tensors larger than their file."""
    shutil.copytree(clip, tmp_path / "a")
    marker, path = tmp_path / "ran", tmp_path / "a" / "pytorch_model.bin"
    huge = torch.zeros(1).expand(2**31)
    torch.save({"weight": Evil(marker) if kind == "code" else huge}, path)
    with pytest.raises(InputError, match="Weights only load failed" if kind == "code" else "memory"):
        to_safetensors(tmp_path / "a", tmp_path / "b")
    assert not marker.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_archives_that_hide_their_size_or_hold_code_are_refused(tmp_path: Path) -> None:
    """Guards against 400 MB out of 400 KB, before torch sees the file."""
    torch.save({"weight": torch.zeros(2**20)}, tmp_path / "honest.pt")
    weights_only.check_archive(tmp_path / "honest.pt")
    with zipfile.ZipFile(tmp_path / "honest.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert (tmp_path / "bomb.pt").stat().st_size < 2**16
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("archive/code/__torch__.py", "")
    for name, word in (("bomb.pt", "compressed"), ("script.pt", "TorchScript")):
        with pytest.raises(weights_only.RefusedError, match=word):
            weights_only.check_archive(tmp_path / name)
    (tmp_path / "a").mkdir()
    shutil.copy(tmp_path / "bomb.pt", tmp_path / "a" / "pytorch_model.bin")
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="compressed"):
        to_safetensors(tmp_path / "a", tmp_path / "b")


def test_the_payload_of_the_test_would_run(tmp_path: Path) -> None:
    """The null control: read without care, the same file does what it says."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))  # noqa: S301
    assert (tmp_path / "ran").exists()


def test_folders_without_pickles_or_description_are_told(tmp_path: Path) -> None:
    """Guards against a conversion of nothing, and of weights whose architecture nobody knows."""
    with pytest.raises(InputError, match="no pickled weights"):
        to_safetensors(tmp_path, tmp_path / "out")
    torch.save({"weight": torch.zeros(4)}, tmp_path / "one.pt")
    with pytest.raises(InputError, match="neither config"):
        to_safetensors(tmp_path, tmp_path / "out")
    torch.save({"weight": torch.zeros(4)}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"one\.pt, two\.pt"):
        to_safetensors(tmp_path, tmp_path / "out")
    with pytest.raises(weights_only.RefusedError, match="no state dict"):
        weights_only.weights_of([torch.zeros(1)])
    with pytest.raises(weights_only.RefusedError, match="'note' where only tensors"):
        weights_only.weights_of({"weight": torch.zeros(4), "note": "hello"})


def test_weights_in_parts_keep_their_table(clip: Path, tmp_path: Path) -> None:
    """Guards against a table that still names the pickles, and against the traceback of one that is none."""
    folder = tmp_path / "parts"
    shutil.copytree(clip, folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names, table = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    to_safetensors(folder, tmp_path / "out")
    pictures = [np.full((40, 30, 3), 90, dtype=np.uint8)]
    whole = tmp_path / "whole"
    to_safetensors(clip, whole)
    vectors = [chiasm.load(one).encode_image(pictures) for one in (tmp_path / "out", whole)]
    np.testing.assert_array_equal(*vectors)
    for wrong in ("{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[]"):
        index.write_text(wrong)
        with pytest.raises(InputError, match=r"weight_map|index"):
            to_safetensors(folder, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_links_out_of_the_folder_are_refused(clip: Path, tmp_path: Path) -> None:
    """Guards against a foreign folder whose README.md is a link to a private file: exported, it is shared."""
    folder = tmp_path / "a"
    shutil.copytree(clip, folder)
    secret = tmp_path / "secret.txt"
    secret.write_text("private")
    (folder / "README.md").symlink_to(secret)
    for source in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(InputError, match=r"README\.md is a link"):
            to_safetensors(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"README\.md is a link"):
        export(folder, "run", tmp_path / "out", torch.device("cpu"))
    assert not (tmp_path / "out").exists()
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("config.json")
    to_safetensors(folder, tmp_path / "out")


def test_links_of_the_hubs_cache_are_followed(clip: Path, tmp_path: Path) -> None:
    """Guards against a refusal of every folder that was fetched from the hub: all of its files are links."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "main"
    shutil.copytree(clip, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / path.name)
    assert to_safetensors(snapshot, tmp_path / "out").count
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
