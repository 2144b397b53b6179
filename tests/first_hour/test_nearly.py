"""Data that no layout fits: the message names the file that nearly fits, what it lacks, and what to type."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command import assert_nothing_half_written, assert_refused
from layouts import Photo, plain_table, table, written
from shortly import Trainer

from chiasm.data.sources import read_source

Rows = Sequence[Photo]


def pictures(root: Path, rows: Rows, folder: str = "images") -> None:
    for row in rows[:4]:
        row.save(root / folder / f"{row.name}.png")


def unknown_columns(root: Path, rows: Rows) -> None:
    table(root / "words.csv", ["pic", "words"], [[f"{rows[0].name}.png", "a dog"]])


def nameless_columns(root: Path, rows: Rows) -> None:
    table(root / "words.csv", [], [["a.png", "0", "a dog"], ["b.png", "1", "a cat"]])


def addresses(root: Path, rows: Rows) -> None:
    table(root / "words.csv", ["url", "caption"], [["https://example.org/1.jpg", "a dog"]])


def two_captions(root: Path, rows: Rows) -> None:
    written(root / "words.jsonl", json.dumps({"image": "a.png", "caption": "x", "text": "y"}) + "\n")


def one_level_up(root: Path, rows: Rows) -> None:
    plain_table(root / "my set", rows)


def only_pictures(root: Path, rows: Rows) -> None:
    pictures(root, rows, "")


def half_karpathy(root: Path, rows: Rows) -> None:
    written(root / "dataset.json", json.dumps({"images": [{"filename": "a.png"}]}))


def cut_short(root: Path, rows: Rows) -> None:
    written(root / "dataset.json", json.dumps({"images": [{"filename": "a.png", "sentences": []}]})[:-9])


def conversations(root: Path, rows: Rows) -> None:
    written(
        root / "chat.json", json.dumps({"rows": [{"id": 1, "image": "a.png", "conversations": [{"from": "human"}]}]})
    )


def boxes_of_coco(root: Path, rows: Rows) -> None:
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}
    written(root / "annotations/instances_train2017.json", json.dumps(content))


def spreadsheet(root: Path, rows: Rows) -> None:
    (root / "words.xlsx").write_bytes(b"PK\x03\x04")


def archive(root: Path, rows: Rows) -> None:
    (root / "shard-000000.tar").write_bytes(b"")


def deep_classes(root: Path, rows: Rows) -> None:
    pictures(root, rows, "cat/2021")
    pictures(root, rows, "dog/2022")


def one_class(root: Path, rows: Rows) -> None:
    pictures(root, rows, "train/cat")


def nothing(root: Path, rows: Rows) -> None:
    pass


CASES: list[tuple[Callable[[Path, Rows], None], list[str]]] = [
    (unknown_columns, ["words.csv is no table", "'pic', 'words'", "rename the column 'pic' to image and 'words' to"]),
    (nameless_columns, ["words.csv is no table: it has 3 columns and no line", "image,caption,split in front"]),
    (addresses, ["column 'url'", "nothing is downloaded", "fetch them"]),
    (two_captions, ["words.jsonl is no table", "2 columns for the caption: caption, text"]),
    (one_level_up, ["my set has the layout table", "--set data.path='ROOT/my set'"]),
    (only_pictures, ["4 images, and no words", "a .txt beside each image"]),
    (half_karpathy, ["dataset.json is nearly karpathy: it has no 'sentences'"]),
    (cut_short, ["dataset.json ends in the middle of its JSON", "fetch or write it again"]),
    (conversations, ["chat.json holds conversations, but no list of them"]),
    (boxes_of_coco, ["instances_train2017.json is nearly coco_captions: it has no 'caption'"]),
    (spreadsheet, ["words.xlsx is a spreadsheet", "save it as CSV in UTF-8"]),
    (archive, ["shard-000000.tar is an archive", "unpack it"]),
    (deep_classes, ["cat, dog hold images in folders of their own", "--set data.format=class_folders"]),
    (one_class, ["train holds one class alone, cat"]),
    (nothing, ["it holds nothing"]),
]  # fmt: skip


@pytest.mark.parametrize(("build", "parts"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_the_file_that_nearly_fits(
    build: Callable[[Path, Rows], None], parts: list[str], rows: list[Photo], tmp_path: Path, train: Trainer
) -> None:
    """Guards against "the layout is not recognised", a list of names, and nothing about the file that is there."""
    root = tmp_path / "data"
    root.mkdir()
    build(root, rows)
    assert_refused(train(root), "is not recognised", *(part.replace("ROOT", str(root)) for part in parts))
    assert_nothing_half_written(tmp_path)


def test_the_pictures_folder_itself(rows: list[Photo], tmp_path: Path, train: Trainer) -> None:
    """Guards against a path one level too deep, and against looking through all that lies above it."""
    root = plain_table(tmp_path / "data", rows)
    assert_refused(train(root / "images"), "the folder above", "has the layout table", f"--set data.path={root}")


def test_deep_classes_are_read_as_told(rows: list[Photo], tmp_path: Path) -> None:
    """Guards against advice that does not work."""
    for number, row in enumerate(rows):
        row.save(tmp_path / ("cat/2021" if number % 2 else "dog/2022") / f"{row.name}.png")
    data = read_source(tmp_path, "train", "class_folders")
    labels = {example.label for example in data.examples}
    assert labels == {"cat", "dog"} and len(data.examples) == 20
