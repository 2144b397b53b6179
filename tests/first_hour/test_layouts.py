"""Own data in each layout: read whole, split by split, and trained; or refused with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import assert_nothing_half_written, assert_refused
from layouts import LAYOUTS, VALIDATION, Photo, coco, imagefolder, nameless_csv, table, text_files, written
from shortly import Trainer

from chiasm.data.sources import FORMATS, read_source


def texts(row: Photo, name: str) -> list[str]:
    """The captions that a layout gives a photo."""
    if name == "imagefolder_jsonl":
        return [row.chinese]
    if name == "nameless_tsv":
        return [f"{row.english}, as seen, today"]
    return [row.english, f"There is {row.english}"] if name == "text_files" else [row.english]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_photo_has_its_own_words(name: str, rows: list[Photo], tmp_path: Path) -> None:
    """Guards against a layout read as another, a split lost, and words beside another split's picture."""
    format_name, build = LAYOUTS[name]
    root = build(tmp_path / "my data", rows)
    first = read_source(root, "train", languages=())
    assert first.format == format_name
    assert first.ledger.rejected == 0, first.ledger.entries
    splits = first.splits
    is_drawn = bool(first.ledger.counts("note").get("split_drawn"))
    by_pixels = {row.picture.tobytes(): row for row in rows}
    found = {}
    for split in splits:
        data = read_source(root, split, languages=())
        assert data.ledger.rejected == 0
        for example in data.examples:
            pixels = np.asarray(example.inputs["image"].load())
            if name == "text_files":  # JPEG changes the pixels
                row = min(rows, key=lambda one: np.abs(np.asarray(one.picture, dtype=int) - pixels).mean())
            else:
                row = by_pixels[pixels.tobytes()]
            assert row.name not in found, "a photo in two splits, or twice"
            found[row.name] = split
            if name == "class_folders":
                assert example.label == row.label
            else:
                assert [caption.text for caption in example.captions] == texts(row, name)
            assert is_drawn or (row.split == "train") == (split in ("train", "train2017"))
    assert len(found) == len(rows)


@pytest.mark.parametrize("name", ["imagefolder", "text_files", "coco", "nameless_csv", "parquet"])
def test_a_model_comes_out(name: str, rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a layout that is read and then cannot be trained, measured or told of."""
    root = LAYOUTS[name][1](tmp_path / "my data", rows)
    said = train(root)
    assert said.code == 0, said.err
    summary = json.loads((train.out / "ledger.jsonl").read_text().splitlines()[-1])
    assert summary["rejected"] == 0 and summary["used"] > 10
    if name in ("imagefolder", "coco"):
        assert f"{VALIDATION} images of split 'val'" in said.out and summary["used"] == len(rows) - VALIDATION


def test_splits_are_no_classes(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a model that tells the training set from the validation set."""
    for row in rows:
        row.save(tmp_path / "data" / ("train2017" if row.split == "train" else "validation") / f"{row.name}.png")
    said = train(tmp_path / "data")
    assert_refused(said, "train2017, validation are named after splits", "metadata.csv", "CLASS/image.jpg")
    assert_nothing_half_written(tmp_path)


def test_addresses_are_not_fetched(tmp_path: Path, train: Trainer) -> None:
    """Guards against "no column that names an image", where a column names addresses."""
    file = table(tmp_path / "data.csv", ["url", "caption"], [["https://example.org/1.jpg", "a dog"]])
    assert_refused(train(file), "names its images by addresses (column 'url')", "nothing is downloaded", "fetch them")
    file = table(tmp_path / "data.csv", ["image", "caption"], [["https://example.org/1.jpg", "a dog"]])
    assert_refused(train(file), "is an address, and nothing is downloaded")


def test_home_folder(rows: list[Photo], tmp_path: Path, train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a folder called ~, which a shell leaves as it is after data.path=."""
    monkeypatch.setenv("HOME", str(tmp_path))
    nameless_csv(tmp_path / "data", rows)
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    assert train("~/data", "data.images=~/elsewhere").code == 0
    again = train.chiasm(
        "train", "clip", "--tiny", "--set=data.path=~/data", "--set", "data.images=~/elsewhere", "--set",
        "init_from=~/run", "--set", "train.steps=1", "--set", "test_split=val", "--out=~/run2",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert (tmp_path / "run2/model.safetensors").is_file() and not Path("~").exists()


def test_named_format_reads_the_same(rows: list[Photo], tmp_path: Path) -> None:
    """Guards against a layout that only recognition can open."""
    for name, (format_name, build) in LAYOUTS.items():
        root = build(tmp_path / name, rows)
        assert format_name in FORMATS
        named, found = (read_source(root, "train", chosen, languages=()) for chosen in (format_name, "auto"))
        assert [one.id for one in named.examples] == [one.id for one in found.examples], name


def test_boxes_of_a_detector_are_no_captions(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against training on the numbers of YOLO's text files."""
    for row in rows:
        row.save(tmp_path / "data/images" / f"{row.name}.png")
        written(tmp_path / "data/labels" / f"{row.name}.txt", "0 0.5 0.5 0.25 0.25\n")
    assert_refused(train(tmp_path / "data"), "hold numbers alone", "YOLO")


def test_what_does_not_pair_is_told(rows: list[Photo], tmp_path: Path) -> None:
    """Guards against photos and texts that vanish because the other half is missing, empty or doubled."""
    root = text_files(tmp_path / "data", rows)
    names = sorted(file.stem for file in root.glob("*.txt"))
    (root / f"{names[0]}.txt").unlink()
    (root / f"{names[1]}.JPG").unlink()
    written(root / f"{names[2]}.txt", " \n")
    rows[3].save(root / f"{names[3]}.png")
    (root / f"{names[4]}.txt").write_bytes("caf\xe9\n".encode("latin-1") + b"good\n")
    written(root / "README.txt", "about\n")
    (root / "loop").symlink_to(root)
    (root / "dir.txt").mkdir()
    data = read_source(root, "train")
    whole = [read_source(root, split) for split in data.splits]
    assert sum(len(part.examples) for part in whole) == len(rows) - 4
    assert data.ledger.counts()["missing_image"] == 1 and data.ledger.counts()["ambiguous_name"] == 1
    codes = {entry.code for part in whole for entry in part.ledger.entries}
    assert codes >= {"no_text", "empty_caption", "encoding", "no_picture_of_the_name"}


def test_a_picture_of_another_split_is_never_taken(rows: list[Photo], tmp_path: Path) -> None:
    """Guards against captions of validation beside the training picture of the same name."""
    root = coco(tmp_path / "data", rows)
    (root / "val2017" / f"{0:012}.png").unlink()
    data = read_source(root, "val")
    assert data.ledger.counts() == {"missing_image": 1} and len(data.examples) == VALIDATION - 1


def test_pictures_without_a_row_are_told(rows: list[Photo], tmp_path: Path) -> None:
    """Guards against half a folder that nobody reads."""
    root = imagefolder(tmp_path / "data", rows)
    rows[0].save(root / "train/extra.png")
    (note,) = read_source(root, "train").ledger.entries
    assert note.code == "not_in_table" and "1 images" in note.text and "extra.png" in note.text
