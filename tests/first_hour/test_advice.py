"""What goes wrong with own data says what to type: each message is followed, and then a model comes out."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command import Said, assert_refused
from layouts import Photo, table
from shortly import Trainer


def typed(said: Said) -> str:
    """The assignment that the message proposes first."""
    (command,) = re.findall(r"  do: --set (.*?)(?: \(|; or )", said.err)
    (assignment,) = shlex.split(command)
    return assignment


def captioned(root: Path, rows: list[Photo], header: str = "caption", images: str = "images") -> Path:
    """A table beside a folder of pictures."""
    lines = [[row.save(root / images / f"{row.name}.png"), row.english] for row in rows]
    table(root / "data.csv", ["image", header], lines)
    return root


@pytest.mark.parametrize("place", ["data/scans", "data/a/b", "beside the data", "absolute"])
def test_pictures_in_another_folder(place: str, rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against "missing_image 24" where the pictures lie a folder away."""
    root = captioned(tmp_path / "data", rows)
    folder = tmp_path / place
    folder.parent.mkdir(parents=True, exist_ok=True)
    (root / "images").rename(folder)
    if place == "absolute":
        lines = [[str(folder / f"{row.name}.png"), row.english] for row in rows]
        table(root / "data.csv", ["image", "caption"], lines)
    said = train(root)
    assert_refused(said, "used + ", "(20 of 20 missing images lie there)", f"listed in {train.out}/ledger.jsonl")
    assert typed(said) == f"data.images={folder}"
    if place == "beside the data":
        assert train(root, typed(said)).code == 0


def test_paths_of_another_machine(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a hint that leads nowhere: the names themselves do not fit."""
    root = tmp_path / "data"
    for row in rows:
        row.save(root / "photos" / f"{row.name}.png")
    table(root / "data.csv", ["image", "caption"], [[f"/home/a/b/{row.name}.png", row.english] for row in rows])
    said = train(root)
    assert_refused(said, "without their folders (scene ", f"--set data.images={root}/photos")


def test_captions_in_another_language(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against "no text in the wanted languages" that does not name the language."""
    root = captioned(tmp_path / "data", rows, "caption_vi")
    said = train(root)
    assert_refused(said, "other_language", "(20 texts in 'vi')", f"listed in {train.out}/ledger.jsonl")
    assert typed(said) == "data.languages=vi"
    assert train(root, typed(said)).code == 0
    content = (train.out / "ledger.jsonl").read_text().splitlines()
    assert json.loads(content[-1])["used"] == 20, "the run's own ledger is in the place of the refused one"


def test_some_rows_in_another_language(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a hint that exchanges one half of the captions for the other."""
    lines = [[r.save(tmp_path / f"{r.name}.png"), r.english if n % 2 else r.chinese] for n, r in enumerate(rows)]
    table(tmp_path / "data.csv", ["image", "caption"], lines)
    assert typed(train(tmp_path)) == "data.languages=en,zh"


def test_languages_nobody_asked_for_are_noted(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against captions that are left out of rows without a word, since others of the row are used."""
    lines = [[row.save(tmp_path / f"{row.name}.png"), row.english, row.chinese] for row in rows]
    table(tmp_path / "data.csv", ["image", "caption", "caption_zh"], lines)
    assert train(tmp_path).code == 0
    entries = [json.loads(line) for line in (train.out / "ledger.jsonl").read_text().splitlines()]
    (note,) = [entry for entry in entries if entry.get("code") == "other_language"]
    assert "20 texts in 'zh' are not used; --set data.languages=en,zh" in note["text"]


def test_advice_reaches_every_verb(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against "0 pictures, no words and no label" where the ledger knows better."""
    root = captioned(tmp_path / "data", rows, "caption_vi")
    for words in (
        ["show", "clip", "--tiny", "--set", f"data.path={root}"],
        ["train", root],
        ["train", "xlnet_vqa", "--tiny", "--set", f"data.path={root}", "--out", train.out],
    ):
        assert_refused(train.chiasm(*words), "other_language: 20", "--set data.languages=vi (20 texts in 'vi')")
    assert (train.out / "ledger.jsonl").is_file(), "a run of several stages"


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "utf-16"])
def test_other_encodings(encoding: str, rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a table saved by a spreadsheet that ends in "byte 7 of the line is not UTF-8" and nothing else."""
    texts = [row.chinese if encoding == "gb18030" else f"{row.english} – café" for row in rows]
    names = [row.save(tmp_path / "images" / f"{row.name}.png") for row in rows]
    content = "image,caption\n" + "".join(f'{n},"{t}"\n' for n, t in zip(names, texts, strict=True))
    (tmp_path / "data.csv").write_bytes(content.encode(encoding))
    said = train(tmp_path / "data.csv", "data.languages=en,zh")
    name = {"gb18030": "GB18030", "cp1252": "WINDOWS-1252", "utf-16": "UTF-16"}[encoding]
    assert_refused(said, f"iconv -f {name} -t UTF-8 {tmp_path}/data.csv > {tmp_path}/data-utf8.csv")


def test_one_broken_photo_of_twenty(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a run that ends at 5 % where that is one photo; four of them still end it, with the flag."""
    root = captioned(tmp_path / "data", rows)
    (root / "images" / f"{rows[0].name}.png").write_bytes(b"\x89PNG\r\n")
    table(root / "train.csv", ["image", "caption"], [[f"{row.name}.png", row.english] for row in rows[:18]])
    table(root / "val.csv", ["image", "caption"], [[f"{row.name}.png", row.english] for row in rows[18:]])
    (root / "data.csv").unlink()
    said = train(root)
    assert said.code == 0, said.err
    assert "18 offered = 17 used + 1 rejected" in said.err
    for row in rows[1:4]:
        (root / "images" / f"{row.name}.png").write_bytes(b"\x89PNG\r\n")
    train.out = tmp_path / "second"
    said = train(root)
    assert_refused(said, "4 rejected", "or accept them with --set data.max_rejected=0.23", "second/ledger.jsonl")
    lines = [json.loads(line) for line in (train.out / "ledger.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "rejected" for line in lines) == 4
    assert train(root, "data.max_rejected=0.23").code == 0
