"""Reading layouts: every row used or reported with its place, and one meaning whatever the layout."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.sources import FORMATS, FileData, read_source


def picture(path: Path, value: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return path


def json_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def captions(data: FileData) -> dict[str, list[str]]:
    return {example.id: [caption.text for caption in example.captions] for example in data.examples}


def codes(data: FileData) -> list[tuple[int | None, str]]:
    assert data.ledger.offered == data.ledger.used + data.ledger.rejected
    return [(entry.row, entry.code) for entry in data.ledger.entries if entry.kind == "rejected"]


def by_id(data: FileData) -> dict[str, Example]:
    assert len({example.id for example in data.examples}) == len(data.examples)
    return {example.id: example for example in data.examples}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcdef":
        picture(tmp_path / "images" / f"{name}.png", ord(name))
    return tmp_path


def test_data_jsonl_keys_and_languages(root: Path) -> None:
    """All that is known about a picture must arrive, each text with its language."""
    row = {"id": "1", "image": "images/a.png", "captions": ["A dog.", "一只狗"], "captions_zh": ["狗"], "label": "dog"}
    asked = {"id": "2", "image": "images/b.png", "patient": "p7"}
    asked["questions"] = [{"question": "How many?", "answers": ["2", "two"], "kind": "count"}]
    said = {"id": "3", "image": "images/c.png", "sentence": "It is red.", "label": False}
    json_lines(root / "train/data.jsonl", [row, asked, said])
    json_lines(root / "dev/data.jsonl", [{"image": "images/d.png", "question": "Cat?", "answer": "yes"}])
    data = read_source(root, "training", languages=("en", "zh"))
    assert (data.format, data.splits) == ("data_jsonl", ("dev", "train"))
    examples = by_id(data)
    assert [(c.text, c.language) for c in examples["1"].captions] == [("A dog.", "en"), ("一只狗", "zh"), ("狗", "zh")]
    assert (examples["1"].label, examples["2"].group) == ("dog", "p7")
    question = examples["2"].questions[0]
    assert (question.text, question.answers, question.kind, question.language) == (
        "How many?",
        ("2", "two"),
        "count",
        "en",
    )
    assert examples["3"].questions[0].answers == ("false",)
    assert not examples["3"].captions
    assert not examples["3"].label
    assert np.array_equal(examples["2"].inputs["image"].load()[0, 0], [98, 98, 98])
    assert captions(read_source(root, "train"))["1"] == ["A dog."]
    assert captions(read_source(root, "train", languages=("zh",))) == {"1": ["一只狗", "狗"]}
    assert by_id(read_source(root, "validation"))["images/d"].questions[0].text == "Cat?"


def test_one_bad_row_never_loses_good_ones(root: Path) -> None:
    """Each of these once ended a run, vanished, or took its neighbours with it."""
    good = [{"id": name, "image": f"images/{name}.png", "caption": f"Picture {name}."} for name in "abc"]
    outside = [{"image": name, "caption": "x"} for name in ("../../etc/passwd", "/etc/passwd", "file:///a.png")]
    bad: list[Any] = [
        '{"id": "cut", "image": "images/',
        '{"image": "images/a.png", "image": "images/b.png", "caption": "x"}',
        '{"image": "images/a.png", "caption": "x", "score": NaN}',
        '{"image": "images/a.png", "caption": "\\ud800"}',
        "[" * 100_000,
        '{"image": "images/a.png", "caption": "x", "n": ' + "9" * 5000 + "}",
        "[1]",
        {"image": "images/gone.png", "caption": "x"},
        {"image": "images/a.png", "caption": " \u200b"},
        {"id": "a", "image": "images/d.png", "caption": "twice"},
        {"image": "images/a.png", "caption": {"text": "x"}},
        {"image": "images/d.png", "caption": "word " * 20_000},
        {"image": "images/d.png", "question": "Why?"},
        {"image": "images/d.png"},
        {"image": None, "caption": "x"},
        *outside,
    ]
    file = json_lines(root / "train/data.jsonl", [good[0], *bad, good[1]])
    with open(file, "ab") as more:
        more.write(b'{"image": "images/d.png", "caption": "caf\xe9"}\r\n\n' + json.dumps(good[2]).encode())
    data = read_source(root, "train")
    assert captions(data) == {name: [f"Picture {name}."] for name in "abc"}
    expected = ["json", "json", "json", "encoding", "json", "json", "json", "missing_image", "empty_caption"]
    expected += ["duplicate_id", "caption", "text_too_long", "columns", "columns", "no_image"] + ["path_escape"] * 3
    numbered = [*list(enumerate(expected, 2)), (len(expected) + 3, "encoding")]
    assert sorted(codes(data)) == numbered
    assert data.ledger.offered == 3 + len(numbered)


def test_empty_caption_among_good_ones_is_a_note(root: Path) -> None:
    """Dropping a caption is no reason to drop the picture, but must be told."""
    json_lines(root / "data.jsonl", [{"image": "images/a.png", "captions": ["", "A\x1b[31m  cat\n."], "split": "val"}])
    data = read_source(root, "val")
    assert captions(data) == {"images/a": ["A  cat ."]}
    assert data.ledger.counts("note") == {"empty_caption": 1}
    assert codes(data) == []


def test_row_and_folder_must_agree_on_the_split(root: Path) -> None:
    """A test row that lies in the training folder would be trained on."""
    rows = [{"image": f"images/{n}.png", "caption": "x", "split": s} for n, s in (("a", "train"), ("b", "test"))]
    json_lines(root / "train/data.jsonl", rows)
    data = read_source(root, "train")
    assert (list(captions(data)), codes(data)) == (["images/a"], [(2, "split_conflict")])


def test_utf16_and_bom(root: Path) -> None:
    """Python accepts UTF-16 JSON in bytes and keeps a BOM in the first column's name."""
    file = root / "train.csv"
    file.write_bytes(b"\xef\xbb\xbfimage,caption\r\nimages/a.png,caf\xc3\xa9\r\n")
    assert captions(read_source(file, "train")) == {"images/a": ["café"]}
    file.write_bytes("image,caption\nimages/a.png,x\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"train\.csv"):
        read_source(file, "train")


def flickr8k(root: Path) -> Path:
    text = root / "original/Flickr8k_text"
    rows = [f"{name}.png#{n}\tCaption {n} of {name} ." for name in "abcd" for n in range(2)]
    rows += ["gone.png.1#0\tNo photo .", "no number\tx", "a.png#0\tagain"]
    written(text / "Flickr8k.token.txt", "\n".join(rows) + "\n")
    written(text / "Flickr8k.lemma.token.txt", "a.png#0\tlemma\n")
    for split, names in (("train", "ab"), ("dev", "c"), ("test", "e")):
        written(text / f"Flickr_8k.{split}Images.txt", "".join(f"{name}.png\n" for name in names))
    return text


@pytest.mark.parametrize("place", ["", "original/Flickr8k_text", "original/Flickr8k_text/Flickr8k.token.txt"])
def test_flickr8k_tokens(root: Path, place: str) -> None:
    """The missing photo of the real release, unlisted pictures and listed ones without captions must all show up."""
    flickr8k(root)
    data = read_source(root / place, "train")
    assert data.format == "flickr8k_tokens"
    assert set(data.splits) == {"train", "val", "test", "unassigned"}
    assert captions(data) == {n: [f"Caption {i} of {n} ." for i in range(2)] for n in "ab"}
    assert codes(data) == [(10, "token_line"), (11, "duplicate_id")]
    assert data.ledger.counts("note") == {"missing_image": 1}
    assert list(captions(read_source(root / place, "dev"))) == ["c"]
    rest = read_source(root / place, "unassigned")
    assert list(captions(rest)) == ["d"]
    assert (9, "missing_image") in codes(rest)
    assert (1, "no_text") in codes(read_source(root / place, "test"))


def test_tokens_without_lists_draw_a_split_by_picture(tmp_path: Path) -> None:
    """Rows of one picture in two splits, or a draw that changes between runs, leak the test set."""
    for n in range(200):
        picture(tmp_path / f"{n}.png")
    written(tmp_path / "x.token.txt", "".join(f"{n}.png#{i}\tcaption\n" for n in range(200) for i in range(2)))
    parts = {split: read_source(tmp_path, split) for split in ("train", "val", "test")}
    ids = [example.id for part in parts.values() for example in part.examples]
    assert sorted(ids) == sorted(str(n) for n in range(200))
    assert 165 <= len(parts["train"].examples) <= 195
    assert all(len(example.captions) == 2 for part in parts.values() for example in part.examples)
    assert parts["val"].ledger.counts("note") == {"split_drawn": 1}
    again = read_source(tmp_path, "val")
    assert [e.id for e in again.examples] == [e.id for e in parts["val"].examples]


def test_karpathy(root: Path) -> None:
    """A broken entry is one ledger row; `restval` is not silently training data."""
    entries: list[Any] = [
        {"filename": "a.png", "split": "train", "sentences": [{"raw": "One ."}, {"raw": "Two ."}]},
        {"filename": "b.png", "filepath": "images", "split": "restval", "sentences": [{"raw": "Three ."}]},
        {"filename": "c.png", "split": "train"},
        {"filename": "d.png", "split": "train", "sentences": [{"raw": 5.5}]},
    ]
    written(root / "dataset_x.json", json.dumps({"images": entries, "dataset": "x"}))
    data = read_source(root, "train")
    assert (data.format, data.splits, captions(data)) == ("karpathy", ("train", "restval"), {"a": ["One .", "Two ."]})
    assert codes(data) == [(3, "entry"), (4, "caption")]
    assert captions(read_source(root / "dataset_x.json", "restval")) == {"images/b": ["Three ."]}


def test_coco_captions(root: Path) -> None:
    """Captions belong to pictures by id, not by position; both sides may lack the other."""
    images = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}, {"id": 5, "file_name": "c.png"}]
    notes = [{"image_id": i, "id": n, "caption": f"{i} {n}"} for n, i in enumerate((3, 7, 3, 99))]
    content = json.dumps({"info": {}, "images": images, "annotations": [*notes, {"caption": "x"}]})
    written(root / "annotations/captions_train2017.json", content)
    written(root / "annotations/captions_val2017.json", content)
    data = read_source(root, "train")
    assert (data.format, data.splits) == ("coco_captions", ("train", "val"))
    assert captions(data) == {"a": ["7 1"], "b": ["3 0", "3 2"]}
    assert sorted(code for _, code in codes(data)) == ["entry", "no_text", "unknown_image"]


def test_coco_instances(root: Path) -> None:
    """Categories become objects, each once, of the split measured; training does not read them."""
    images = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}]
    notes = [{"image_id": i, "id": i, "caption": f"caption {i}"} for i in (3, 7)]
    instances = {
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "images": images,
        "annotations": [{"image_id": 3, "category_id": c, "bbox": [0, 0, 1, 1]} for c in (18, 1, 18, 5)],
    }
    for split in ("train", "val"):
        written(root / f"annotations/captions_{split}2017.json", json.dumps({"images": images, "annotations": notes}))
        written(root / f"annotations/instances_{split}2017.json", json.dumps(instances))
    data = read_source(root, "val")
    assert {example.id: example.objects for example in data.examples} == {"a": (), "b": ("dog", "person")}
    assert codes(data) == [(4, "entry")]
    assert [example.objects for example in read_source(root, "train").examples] == [(), ()]
    written(root / "annotations/instances_val2017.json", json.dumps({"annotations": []}))
    with pytest.raises(InputError, match="no list `categories`"):
        read_source(root, "val")


def test_vqav2(root: Path) -> None:
    """Ten answers keep their counts, questions of a picture come together, file names follow COCO's rule."""
    picture(root / "val2014/COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question_id": q, "question": f"Question {q}?"} for q in (1, 2, 3)]
    given = [{"answer": word} for word in ("no", "yes", "yes")]
    notes = [{"question_id": q, "answers": given, "answer_type": "yes/no"} for q in (2, 1)]
    written(root / "v2_OpenEnded_mscoco_val2014_questions.json", json.dumps({"questions": asked}))
    with pytest.raises(InputError, match="annotation files"):
        read_source(root, "val")
    written(root / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": notes}))
    for path in (
        root,
        root / "v2_OpenEnded_mscoco_val2014_questions.json",
        root / "v2_mscoco_val2014_annotations.json",
    ):
        data = read_source(path, "dev")
        assert (data.format, data.splits, codes(data)) == ("vqav2", ("val",), [(3, "no_answer")])
        (example,) = data.examples
        assert [q.text for q in example.questions] == ["Question 1?", "Question 2?"]
        assert (example.questions[0].answers, example.questions[0].kind) == (("yes", "yes", "no"), "yes/no")


def test_vqa_rad(root: Path) -> None:
    """Numbers as answers and ids are in the real file; the test questions are marked in `phrase_type`."""
    rows: list[Any] = [
        {
            "qid": q,
            "image_name": f"{n}.png",
            "question": "Is it?",
            "answer": a,
            "answer_type": "CLOSED ",
            "phrase_type": p,
        }
        for q, n, a, p in (
            (1, "a", 5, "freeform"),
            ("2", "a", "Yes", "para"),
            (3, "a", "No", "test_para"),
            (4, "b", None, ""),
        )
    ]
    written(root / "VQA_RAD Dataset Public.json", json.dumps([*rows, "x"]))
    data = read_source(root, "train")
    assert (data.format, data.splits, codes(data)) == ("vqa_rad", ("train", "test"), [(4, "no_answer"), (5, "entry")])
    (example,) = data.examples
    assert [(q.answers, q.kind) for q in example.questions] == [(("5",), "CLOSED"), (("Yes",), "CLOSED")]


def test_kaggle_csv_and_quotes(root: Path) -> None:
    """One unclosed quote swallowed every following row; a quoted line break is legal."""
    lines = [
        "image,caption",
        'a.png,"A dog, a cat."',
        'a.png,"two\nlines"',
        'b.png,"open',
        "c.png,good",
        'd.png,"""x"" y"',
    ]
    lines += ["e.png,one,more", "e.png,", '"f.png,x']
    written(root / "captions.txt", "\n".join(lines) + "\n")
    everything = [read_source(root, s) for s in ("train", "val", "test") if s in read_source(root, "train").splits]
    texts = {key: value for part in everything for key, value in captions(part).items()}
    assert texts == {"a": ["A dog, a cat.", "two lines"], "c": ["good"], "d": ['"x" y']}
    assert set(codes(everything[0])) >= {(5, "quote"), (8, "column_count"), (10, "quote")}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_tables_of_questions_and_labels(root: Path, delimiter: str) -> None:
    """Columns are known by name, whatever case, order and delimiter."""
    rows = [
        ("Split", "Question", "IMAGE_NAME", "extra", "Answer"),
        ("train", "Why?", "a.png", "1", "So"),
        ("dev", "Who?", "b.png", "2", "I"),
    ]
    written(root / "q.tsv", "".join(delimiter.join(row) + "\r\n" for row in rows))
    data = read_source(root / "q.tsv", "validation")
    assert (data.format, data.splits, data.examples[0].questions[0].answers) == ("table", ("train", "dev"), ("I",))
    assert data.examples[0].source.row == 3
    written(root / "l_train.csv", f"label{delimiter}file\ncat{delimiter}images/c.png\n")
    assert [e.label for e in read_source(root / "l_train.csv", "train").examples] == ["cat"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("image,caption,text", "2 columns for the caption: caption, text"),
        ("picture_of,caption", "no column that names an image"),
        ("image,colour", "no column with captions"),
        ("image,question", "only one of question and answer"),
        ("image,Image,caption", "2 columns for the image"),
        ("image,caption,caption", "a column twice"),
    ],
)
def test_unclear_columns_are_listed(root: Path, header: str, problem: str) -> None:
    """Guessing a column trains on the wrong words."""
    with pytest.raises(InputError, match=problem) as caught:
        read_source(written(root / "t.csv", header + "\n" + "a.png,x,y\n"), "train")
    assert header.split(",")[1] in str(caught.value)


def test_table_for_each_split_and_conflicts(root: Path) -> None:
    """train.csv and val.csv are splits; two labels for a picture cannot both be right."""
    written(root / "train.csv", "image,label\na.png,cat\na.png,dog\na.png,cat\nb.png,cat\n")
    json_lines(root / "val.jsonl", [{"image": "c.png", "label": 3}])
    written(root / "notes.txt", "just words\n")
    data = read_source(root, "train")
    assert data.splits == ("train", "val")
    assert [e.label for e in data.examples] == ["cat", "cat"]
    assert codes(data) == [(3, "conflicting_label")]
    assert read_source(root, "val").examples[0].label == "3"
    with pytest.raises(InputError, match=r"no split 'test'(.|\n)*train, val"):
        read_source(root, "test")


def test_class_folders(tmp_path: Path) -> None:
    """The folder is the label; a stray file is told and not counted."""
    for place in ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.JPG"):
        picture(tmp_path / place)
    written(tmp_path / "train/cat/Thumbs.db", "x")
    data = read_source(tmp_path, "train")
    assert (data.format, data.splits) == ("class_folders", ("train", "val"))
    assert {e.id: e.label for e in data.examples} == {"train/cat/1": "cat", "train/dog/1": "dog"}
    assert (data.ledger.offered, data.ledger.counts("note")) == (2, {"not_a_picture": 1})
    for n in range(60):
        picture(tmp_path / f"plain/{'cat' if n % 2 else 'dog'}/{n}.png")
    drawn = read_source(tmp_path / "plain", "train")
    assert {e.label for e in drawn.examples} == {"cat", "dog"}
    assert drawn.ledger.counts("note") == {"split_drawn": 1}


def test_images_option_and_special_files(root: Path) -> None:
    """A pipe named .png would hang the reader; the option replaces the usual places."""
    os.mkfifo(root / "images/pipe.png")
    (root / "images/link.png").symlink_to(root / "images/a.png")
    (root / "images/broken.png").symlink_to(root / "nowhere.png")
    picture(root / "other/z.png")
    names = ("pipe", "link", "broken", "z")
    file = json_lines(root / "train.jsonl", [{"image": f"{name}.png", "caption": "x"} for name in names])
    data = read_source(file, "train")
    assert codes(data) == [(1, "not_regular"), (3, "missing_image"), (4, "missing_image")]
    assert list(captions(data)) == ["link"]
    for images in ("other", str(root / "other")):
        assert list(captions(read_source(file, "train", images=images))) == ["z"]
    with pytest.raises(InputError, match=r"data\.images is 'nowhere'"):
        read_source(file, "train", images="nowhere")


def test_wrong_requests_say_what_is_allowed(root: Path) -> None:
    """A wrong path, layout, split or language must end in one clear message."""
    json_lines(root / "train/data.jsonl", [{"image": "images/a.png", "caption": "x"}])
    with pytest.raises(InputError, match="does not exist"):
        read_source(root / "no", "train")
    with pytest.raises(InputError, match="did you mean 'karpathy'") as caught:
        read_source(root, "train", format="karpaty")
    assert all(name in str(caught.value) for name in FORMATS)
    with pytest.raises(InputError, match="did you mean 'train'"):
        read_source(root, "trian")
    with pytest.raises(InputError, match=r"layout of .* is not recognised"):
        read_source(root / "images", "train")
    assert codes(read_source(root, "train", languages=("de",))) == [(1, "other_language")]
    empty = root / "empty"
    json_lines(empty / "train/data.jsonl", [])
    with pytest.raises(InputError):
        read_source(empty, "train").ledger.check(1.0)
    for name in FORMATS:
        if name != "data_jsonl":
            with pytest.raises(InputError):
                read_source(empty, "train", format=name)


def test_auto_recognises_what_is_named(root: Path) -> None:
    """Naming the layout must read the same as recognising it."""
    flickr8k(root)
    assert captions(read_source(root, "train", format="flickr8k_tokens")) == captions(read_source(root, "train"))
