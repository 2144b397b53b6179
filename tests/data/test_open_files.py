"""Files as training and validation see them: splits joined and kept apart, labels in words, further sets."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.data.config import DataConfig, OtherDataConfig
from chiasm.data.dataset import Dataset, examples_of
from chiasm.data.files import FilesConfig
from chiasm.data.generated.boxes.dataset import BoxesConfig
from chiasm.data.leaks import open_training
from chiasm.data.opening import open_dataset
from chiasm.train.config import RunConfig


def write(root: Path, split: str, ids: range, **row: Any) -> None:
    """A split of pictures `imgs/NUMBER.png` with a caption, or with the fields of `row`."""
    (root / "imgs").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    lines = []
    for number in ids:
        Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(root / f"imgs/{number}.png")
        lines.append(
            json.dumps({"id": f"{number}", "image": f"imgs/{number}.png", **(row or {"caption": f"no {number}"})})
        )
    (root / split / "data.jsonl").write_text("\n".join(lines) + "\n")


def config(root: Path, **changes: Any) -> DataConfig:
    return FilesConfig(path=str(root), **changes)


def run_on(data: DataConfig) -> RunConfig:
    return RunConfig(recipe="", data=data)


def ids(dataset: Dataset) -> list[str]:
    return [dataset.example(index).id for index in range(len(dataset))]


def test_splits_are_joined(tmp_path: Path) -> None:
    """Guards against a second split that is lost, doubled or left out of the ledger."""
    write(tmp_path, "train", range(6))
    write(tmp_path, "hidden", range(6, 9))
    write(tmp_path, "dev", range(20, 24))
    both = open_dataset(config(tmp_path, train_split="train+hidden"), "train", 0)
    assert ids(both) == [str(number) for number in range(9)] and both.split == "train"
    assert both.ledger.summary() == "9 offered = 9 used + 0 rejected"
    assert ids(open_dataset(config(tmp_path, train_split="train + hidden"), "hidden", 0)) == ["6", "7", "8"]
    assert ids(open_dataset(config(tmp_path, train_split="hidden"), "train", 0)) == ["6", "7", "8"]
    assert len(open_dataset(config(tmp_path, train_split="hidden"), "val", 0)) == 4
    assert len(open_dataset(config(tmp_path), "train", 0)) == 6


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train+train", "'train+train'"),
        ("train+", "'train+'"),
        ("train+training", "'train+training'"),
        ("train+again", "the id '5' is in the splits 'train' and 'again'"),
        ("train+dev", "the first: '20'"),
        ("train+leaked", "the first: '20'"),
        ("train+hiden", "did you mean 'hidden'"),
    ],
)
def test_splits_that_overlap_are_refused(tmp_path: Path, split: str, part: str) -> None:
    """Guards against an example that is trained on twice as often, or that is also validated on."""
    for name, numbers in {"train": range(6), "hidden": range(6, 9), "again": range(5, 7), "dev": range(20, 24)}.items():
        write(tmp_path, name, numbers)
    write(tmp_path, "leaked", range(20, 21))
    with pytest.raises(InputError) as caught:
        open_training(run_on(config(tmp_path, train_split=split)))
    assert part in str(caught.value)


def test_splits_numbered_alike_are_no_leak_but_shared_groups_are(tmp_path: Path) -> None:
    """Guards against refusing the many sets that number each split from 1, and against a silent patient in both."""
    write(tmp_path, "train", range(4))
    write(tmp_path, "val", range(100, 102))
    text = (tmp_path / "val/data.jsonl").read_text().replace('"id": "100"', '"id": "1", "patient": "p7"')
    (tmp_path / "val/data.jsonl").write_text(text)
    assert len(open_training(run_on(config(tmp_path))).dataset) == 4
    rows = (tmp_path / "train/data.jsonl").read_text().replace('"id": "3"', '"id": "3", "patient": "p7"')
    (tmp_path / "train/data.jsonl").write_text(rows)
    with pytest.raises(InputError, match=r"the first: '3' .* is of the group 'p7', as is '1'"):
        open_training(run_on(config(tmp_path)))
    # The same file under another id is a leak whatever it is called.
    rows = rows.replace("imgs/2.png", "imgs/100.png").replace("p7", "p8")
    (tmp_path / "train/data.jsonl").write_text(rows)
    with pytest.raises(InputError, match=r"the first: '2' .* has the very bytes of '1'"):
        open_training(run_on(config(tmp_path)))


def test_validation_is_drawn_where_the_files_have_none(tmp_path: Path) -> None:
    """Guards against tuning on test, against examples in both, and against a draw that changes with the seed."""
    write(tmp_path, "train", range(200), caption="x", patient=None)
    write(tmp_path, "test", range(300, 310))
    data = config(tmp_path)
    train, val = open_dataset(data, "train", 0), open_dataset(data, "val", 0)
    assert set(ids(train)) | set(ids(val)) == {str(number) for number in range(200)}
    assert not set(ids(train)) & set(ids(val)) and 10 <= len(val) <= 30
    assert ids(open_dataset(data, "validation", 9)) == ids(val), "by any name, and with any seed"
    assert ids(open_dataset(data, "test", 0)) == [str(number) for number in range(300, 310)]
    for dataset in (train, val):
        (note,) = dataset.ledger.entries
        assert note.code == "validation_drawn" and f"{len(val)} of the 200" in note.text
        assert dataset.ledger.summary().startswith("200 offered = 200 used")
    with pytest.raises(InputError, match="no split 'hidden'"):
        open_dataset(data, "hidden", 0)


def test_a_group_is_not_cut_by_the_drawn_validation(tmp_path: Path) -> None:
    """Guards against pictures of one patient on both sides."""
    write(tmp_path, "train", range(120))
    rows = [json.loads(line) for line in (tmp_path / "train/data.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**row, "patient": f"p{number // 4}"}) + "\n" for number, row in enumerate(rows))
    (tmp_path / "train/data.jsonl").write_text(text)
    train, val = (open_dataset(config(tmp_path), split, 0) for split in ("train", "val"))
    groups = [{dataset.example(number).group for number in range(len(dataset))} for dataset in (train, val)]
    assert groups[1] and not groups[0] & groups[1] and len(groups[0] | groups[1]) == 30


def test_labels_become_sentences(tmp_path: Path) -> None:
    """Guards against labels that no caption tells of, and equal labels that are each other's negatives."""
    write(tmp_path, "train", range(2), label="polar_bear")
    write(tmp_path, "val", range(10, 12), label="cat")
    prompts = ("a photo of a {label}.", "一张{label}的照片")
    data = config(tmp_path, label_prompts=prompts)
    one, other = (open_dataset(data, "train", 0).example(number) for number in (0, 1))
    assert [(caption.text, caption.language) for caption in one.captions] == [
        ("a photo of a polar bear.", "en"),
        ("一张polar bear的照片", "zh"),
    ]
    assert one.group == other.group == "label:polar_bear" and one.label == "polar_bear" and one.id != other.id
    assert open_dataset(data, "val", 0).example(0).captions[0].text == "a photo of a cat."
    plain = open_dataset(replace(data, label_prompts=()), "train", 0).example(0)
    assert plain.captions == () and plain.group == "" and plain.label == "polar_bear"
    with pytest.raises(InputError, match="'a photo of a dog'"):
        open_dataset(replace(data, label_prompts=("a photo of a dog",)), "train", 0)


def test_captions_are_kept_where_there_are_any(tmp_path: Path) -> None:
    """Guards against prompts that replace what a person wrote."""
    write(tmp_path, "train", range(3), caption="a bear on ice", label="polar_bear", patient="p1")
    write(tmp_path, "val", range(10, 12))
    example = open_dataset(config(tmp_path), "train", 0).example(0)
    assert [caption.text for caption in example.captions] == ["a bear on ice"] and example.group == "p1"


def test_other_sets_are_mixed_into_training_alone(tmp_path: Path) -> None:
    """Guards against ids that collide, languages of the wrong set, and validation on data of another set."""
    write(tmp_path / "main", "train", range(8))
    write(tmp_path / "main", "val", range(20, 23))
    write(tmp_path / "more", "train", range(6, 10), caption="mehr", language="de", patient="p1")
    write(tmp_path / "more", "extra", range(50, 52), label="dog")
    write(tmp_path / "third", "train", range(7, 9), caption="third")
    others = {
        "more": OtherDataConfig(path=str(tmp_path / "more"), split="train+extra", languages=("de",)),
        "third": OtherDataConfig(path=str(tmp_path / "third"), weight=2.0),
    }
    data = config(tmp_path / "main", others=others)
    training = open_dataset(data, "train", 0)
    assert {name: len(part) for name, part in training.parts.items()} == {"data": 8, "more": 6, "third": 2}
    assert len(training) == 16
    assert training.ledger.summary().startswith("16 offered = 16 used")
    every = [training.example(index, epoch) for epoch in range(5) for index in range(16)]
    assert {example.id for example in every} == {
        *map(str, range(8)), "more/6", "more/7", "8", "9", "50", "51", "third/7", "third/8",
    }  # fmt: skip
    by_id = {example.id: example for example in every}
    assert by_id["more/6"].group == "more/p1" and by_id["50"].group == "label:dog"
    assert by_id["more/6"].captions[0].text == "mehr" and by_id["50"].captions[0].text == "a photo of a dog."
    of_part = {example.id: name for name, part in training.parts.items() for example in examples_of(part)}
    # 8, 6 and 2 * 2 of 18, times 16: 7.1, 5.3, 3.6
    assert Counter(of_part[one] for one in ids(training)) == {"data": 7, "more": 5, "third": 4}
    validation = open_dataset(data, "val", 0)
    assert list(validation.parts) == ["data"] and ids(validation) == ["20", "21", "22"]
    for changes, part in (
        ({"others": {"x": OtherDataConfig()}}, "data.others.x.path is not set"),
        ({"others": {"data": OtherDataConfig(path=str(tmp_path / "third"))}}, "'data'"),
    ):
        with pytest.raises(InputError) as caught:
            open_dataset(replace(data, **changes), "train", 0)
        assert part in str(caught.value)


def test_a_generator_may_be_mixed_with_files(tmp_path: Path) -> None:
    """Guards against a main set without a list of examples."""
    write(tmp_path, "train", range(5))
    more = {"more": OtherDataConfig(path=str(tmp_path))}
    data = BoxesConfig(train_pictures=4, questions_per_picture=2, others=more)
    found = Counter(name.split("-")[0] for name in ids(open_dataset(data, "train", 0)))
    assert found["boxes"] == 4 and found.total() == 9
    assert len(open_dataset(replace(data, eval_pictures=3), "val", 0)) == 3


DATA = Path(os.environ.get("CHIASM_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "cifar10_subset").exists(), reason="real data: cifar10_subset is absent (CHIASM_DATA)")
@pytest.mark.parametrize("folder", ["", "images"])
def test_real_cifar10_gets_prompts_and_a_validation_split(folder: str) -> None:
    """Ten classes with a sentence each, a tenth of training kept back, and the same tenth from either layout."""
    data = config(DATA / "cifar10_subset" / folder, label_prompts=("a photo of a {label}.", "a {label}"))
    train, val, test = (open_dataset(data, split, 0) for split in ("train", "val", "test"))
    assert len(train) + len(val) == 4000 and len(val) == 442 and len(test) == 1000
    assert not set(ids(train)) & set(ids(val))
    for dataset in (val, test):
        examples = [dataset.example(number) for number in range(len(dataset))]
        groups = {example.group: example.captions for example in examples}
        assert len(groups) == 10 and groups["label:ship"][0].text == "a photo of a ship."
        assert all(len(example.captions) == 2 and example.label in example.captions[1].text for example in examples)


@pytest.mark.skipif(not (DATA / "nlvr").exists(), reason="real data: nlvr is absent (CHIASM_DATA)")
def test_real_nlvr_joins_train_and_hidden() -> None:
    """1,000 + 5,910 pictures to train on, none of them among the 5,934 of dev."""
    data = config(DATA / "nlvr", train_split="train+hidden")
    training = open_dataset(data, "train", 0)
    assert len(training) == 6910 and training.ledger.used == 6910
    assert len(open_dataset(data, "val", 0)) == 5934


def test_kinds_are_chosen_among_all_of_a_file(tmp_path: Path) -> None:
    """Guards against a kind that first occurs late in a file, and against files read again for it."""
    rows = [{"id": f"{n}", "image": "a.png", "question": "how many?", "answer": "1"} for n in range(300)]
    rows[-1]["question_type"] = "late"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    late = open_dataset(FilesConfig(path=str(tmp_path / "train.jsonl"), question_kinds=("late",)), "train", 0)
    assert sum(len(example.questions) for example in examples_of(late)) == 1


def test_folds_are_a_partition_by_group(tmp_path: Path) -> None:
    """Guards against a patient on both sides, folds of very different sizes, and examples that no fold tests."""
    write(tmp_path, "train", range(120), caption="x", patient=None)
    rows = [json.loads(line) for line in (tmp_path / "train/data.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**row, "patient": f"p{number // 3}"}) + "\n" for number, row in enumerate(rows))
    (tmp_path / "train/data.jsonl").write_text(text)
    seen: Counter[str] = Counter()
    for fold in range(1, 6):
        data = config(tmp_path, fold=f"{fold}/5")
        parts = [open_dataset(data, split, 0) for split in ("train", "val", "held_out")]
        names, groups = [set(ids(part)) for part in parts], []
        for part in parts:
            groups.append({part.example(number).group for number in range(len(part))})
        assert set.union(*names) == {str(number) for number in range(120)}
        assert sum(map(len, names)) == 120 and all(names), "disjoint, and none is empty"
        assert len(groups[2]) == 8 and not groups[2] & (groups[0] | groups[1]) and not groups[0] & groups[1]
        assert ids(open_dataset(data, "held_out", 7)) == ids(parts[2]), "whatever the seed"
        notes = [entry.text for entry in parts[2].ledger.entries if entry.code == "held_out"]
        assert notes == [f"24 of the 120 examples of 'train' are fold {fold}/5, held out"]
        seen.update(names[2])
    assert set(seen.values()) == {1} and len(seen) == 120


def test_a_fold_leaves_the_files_own_validation_alone(tmp_path: Path) -> None:
    """Guards against a fold that is cut out of what is validated on, or trained on after all."""
    write(tmp_path, "train", range(10))
    write(tmp_path, "val", range(20, 24))
    data = config(tmp_path, fold="1/2")
    assert ids(open_dataset(data, "val", 0)) == ["20", "21", "22", "23"]
    assert sorted(ids(open_dataset(data, "train", 0)) + ids(open_dataset(data, "held_out", 0))) == [
        str(number) for number in range(10)
    ]


@pytest.mark.parametrize("fold", ["2", "0/5", "6/5", "1/1", "a/b", "1/5/2", "-1/5", "1/11"])
def test_folds_that_are_none_are_refused(tmp_path: Path, fold: str) -> None:
    """Guards against a typing mistake that trains on everything, and a fold without a picture."""
    write(tmp_path, "train", range(10))
    for split in ("train", "val", "held_out"):
        with pytest.raises(InputError, match=r"data\.fold is"):
            open_dataset(config(tmp_path, fold=fold), split, 0)
