"""Every layout with planted damage: refused in words or told of in the ledger, never a traceback, never half silent."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.data.sources import FORMATS, FileData, read_source

WRONG: list[Any] = [
    None, True, -1.5, "", "\ud800", "\x00/", "../x.png", "a" * 300, [], {}, [None], [{"a": 1}], 10**30, "x" * 70_000,
]  # fmt: skip
KARPATHY = {"images": [{"filename": "a.png", "split": "train", "sentences": [{"raw": "One."}]}]}
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "id": 1, "caption": "One."}, {"image_id": 2, "id": 2, "caption": "Two."}],
}
QUESTIONS = {"questions": [{"image_id": 1, "question_id": 1, "question": "Who?"}]}
ANSWERS = {"annotations": [{"question_id": 1, "answers": [{"answer": "I"}], "answer_type": "other"}]}
RAD = [{"qid": 1, "image_name": "a.png", "question": "Who?", "answer": "I", "answer_type": "x", "phrase_type": "y"}]
ROW = {
    "id": "1", "image": "a.png", "captions": ["One."], "captions_zh": "一", "label": "cat", "split": "train",
    "questions": [{"question": "Who?", "answers": ["I"], "kind": "x"}], "group_id": "g", "language": "en",
}  # fmt: skip
OTHER_ROW = {"image": "b.png", "caption": "Two."}
JSON_FILES: dict[str, dict[str, Any]] = {
    "karpathy": {"dataset.json": KARPATHY},
    "coco_captions": {"captions_train2017.json": COCO},
    "vqav2": {"v2_train2014_questions.json": QUESTIONS, "v2_train2014_annotations.json": ANSWERS,
              "image_ids.json": {"a.png": 1}},
    "vqa_rad": {"VQA_RAD.json": RAD},
    "json_list": {"train.json": [ROW, OTHER_ROW]},
    "data_jsonl": {"train/data.jsonl": [ROW, OTHER_ROW]},
    "table": {"train.jsonl": [ROW, OTHER_ROW]},
    "imagefolder": {"train/metadata.jsonl": [ROW, OTHER_ROW]},
}  # fmt: skip
TEXT_FILES: dict[str, dict[str, str]] = {
    "flickr8k_tokens": {"x.token.txt": "a.png#0\tOne.\n", "x.trainImages.txt": "a.png\n"},
    "table": {"train.csv": "image,caption\na.png,One.\n"},
    "imagefolder": {"train/metadata.csv": "file_name,caption\na.png,One.\n", "val/metadata.csv": "file_name,caption\n"},
    "text_files": {"a.txt": "One.\n", "b.txt": "Two.\n"},
}


def build(root: Path, files: dict[str, Any]) -> Path:
    """Pictures where any of the layouts looks for them, and the files."""
    for folder in ("", "train", "images"):
        for name in ("a", "b"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / folder / f"{name}.png")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else dumped(name, content)
        (root / name).write_text(text, encoding="utf-8")
    return root


def dumped(name: str, content: Any) -> str:
    """JSON, or JSON lines by the file's suffix."""
    if name.endswith(".jsonl") and isinstance(content, list):
        return "".join(json.dumps(row) + "\n" for row in content)
    return json.dumps(content)


def variants(content: Any) -> Iterator[Any]:
    """The content with each of its parts, at any depth, replaced by each wrong value, or removed."""

    def places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            yield from places(child, (*path, key))

    for path in list(places(content, ())):
        for value in WRONG:
            changed = copy.deepcopy(content)
            if not path:
                yield value
                continue
            at = changed
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            yield changed
        if path:
            changed = copy.deepcopy(content)
            at = changed
            for key in path[:-1]:
                at = at[key]
            del at[path[-1]]
            yield changed


def read_or_refused(root: Path, name: str) -> FileData | None:
    """Read; None where it was refused in words. All else is a mistake."""
    try:
        data = read_source(root, "train", name, languages=("en", "zh"))
    except InputError as error:
        return None if error.given and error.allowed and error.do else pytest.fail(f"no advice: {error}")
    assert data.ledger.offered == data.ledger.used + data.ledger.rejected
    for example in data.examples:
        json.dumps(example.id).encode()
        assert example.captions or example.questions or example.label
        for text in (example.id, example.label or "", example.group, *(one.text for one in example.captions)):
            text.encode()  # half a surrogate pair ends a run when its results are written
    return data


@pytest.mark.parametrize("name", JSON_FILES)
def test_every_part_replaced_by_every_wrong_value(name: str, tmp_path: Path) -> None:
    """Guards against a KeyError in row 3 of 100,000, and against results that cannot be written after training."""
    files = JSON_FILES[name]
    root = build(tmp_path, files)
    whole = read_or_refused(root, name)
    assert whole is not None and whole.ledger.used == len(whole.examples) and whole.examples
    tried = good = 0
    for file, content in files.items():
        for changed in variants(content):
            (root / file).write_text(dumped(file, changed), encoding="utf-8")
            data = read_or_refused(root, name)
            tried, good = tried + 1, good + bool(data and data.examples)
        (root / file).write_text(dumped(file, content), encoding="utf-8")
    assert tried > 100 and 0 < good < tried


@pytest.mark.parametrize("name", [*JSON_FILES, *(name for name in TEXT_FILES if name not in JSON_FILES)])
def test_files_cut_anywhere(name: str, tmp_path: Path) -> None:
    """Guards against a file that a full disk or a broken download cut short, read as if it were whole."""
    files = {**TEXT_FILES.get(name, JSON_FILES.get(name, {}))}
    root = build(tmp_path, files)
    for file in files:
        content = (root / file).read_bytes()
        for end in range(0, len(content), max(1, len(content) // 40)):
            (root / file).write_bytes(content[:end])
            read_or_refused(root, name)
            (root / file).write_bytes(content[:end] + b"\xff\xfe\x00")
            read_or_refused(root, name)
        (root / file).write_bytes(content)


def as_folder(path: Path) -> None:
    path.mkdir()


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.symlink_to(path)


def as_link_above(path: Path) -> None:
    path.symlink_to(path.parent)


def as_empty(path: Path) -> None:
    path.write_bytes(b"")


def as_zeros(path: Path) -> None:
    path.write_bytes(bytes(4096))


@pytest.mark.parametrize("plant", [as_folder, as_pipe, as_loop, as_link_above, as_empty, as_zeros])
def test_something_else_under_the_name_of_a_file(plant: Callable[[Path], None], tmp_path: Path) -> None:
    """Guards against a folder called data.csv, a pipe that is waited for, and links that lead in circles."""
    for name, files in [*JSON_FILES.items(), *TEXT_FILES.items()]:
        for number, file in enumerate(files):
            root = build(tmp_path / f"{name}{number}{len(files)}{file.count('csv')}", files)
            (root / file).unlink()
            plant(root / file)
            for format_name in (name, "auto"):
                read_or_refused(root, format_name)
            if plant not in (as_folder, as_link_above):
                read_or_refused(root / file, "auto")


@pytest.mark.parametrize("name", FORMATS)
def test_no_data_at_all(name: str, tmp_path: Path) -> None:
    """Guards against an empty folder, a folder of folders and a wrong file that end in a traceback when named."""
    (tmp_path / "empty/deeper").mkdir(parents=True)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop/again").symlink_to(tmp_path / "loop")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 20)
    for path in (tmp_path / "empty", tmp_path / "loop", tmp_path / "noise.bin"):
        with pytest.raises(InputError):
            read_source(path, "train", name).ledger.check(1.0)


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Guards against a walk that never ends, and pictures that are found once a round."""
    for name in ("cat", "dog"):
        folder = build(tmp_path / name, {}) / "again"
        folder.symlink_to(tmp_path)
    data = read_source(tmp_path, "train", "class_folders")
    assert len({example.id for example in data.examples}) == len(data.examples)
    assert data.ledger.offered <= 12


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Guards against a file name in another encoding, which a run would meet when its results are written."""
    for label in ("cat", "dog"):
        for number in range(12):
            build(tmp_path / label, {})
            name = os.fsencode(tmp_path / label) + b"/caf\xe9%d.png" % number
            with open(name, "wb") as file:
                file.write((tmp_path / label / "a.png").read_bytes())
    data = read_or_refused(tmp_path, "auto")
    assert data is not None and data.format == "class_folders" and len(data.examples) > 20
