"""Planted leaks are found in training, in a mixture and in a stage, and nothing else is called one."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.data.config import OtherDataConfig
from chiasm.data.dataset import Dataset
from chiasm.data.files import FilesConfig
from chiasm.data.generated.boxes.dataset import BoxesConfig
from chiasm.data.leaks import held_out, open_training
from chiasm.train.config import RunConfig


def picture(number: int, px: int = 48) -> np.ndarray:
    """Blobs that no two numbers share, with room for compression."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((px, px), Image.Resampling.BICUBIC))


def write(root: Path, split: str, numbers: Iterable[int], **row: Any) -> None:
    """A split with a picture `SPLIT/NUMBER.png` a row."""
    (root / split).mkdir(parents=True)
    lines = []
    for number in numbers:
        Image.fromarray(picture(number)).save(root / split / f"{number}.png")
        given = {"caption": "x", **row}
        lines.append(json.dumps({"id": f"{number}", "image": f"{split}/{number}.png", **given}))
    (root / split / "data.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures to train on, four of each other split."""
    write(tmp_path, "train", range(12))
    write(tmp_path, "val", range(100, 104))
    write(tmp_path, "test", range(200, 204))
    return tmp_path


def config(root: Path, **changes: Any) -> RunConfig:
    return RunConfig(recipe="", data=FilesConfig(path=str(root), **changes))


def ids(dataset: Dataset) -> list[str]:
    return [dataset.example(number).id for number in range(len(dataset))]


def test_clean_data_pass_as_they_are(root: Path) -> None:
    """Guards against a guard that refuses what it should let through, and against pictures that are lost on the way."""
    dataset, message = open_training(config(root, leak_likeness=0.95))
    assert ids(dataset) == [str(number) for number in range(12)] and message == ""
    assert dataset.ledger.summary() == "12 offered = 12 used + 0 rejected"
    assert [one.split for one in held_out(config(root))] == ["val", "test"]


@pytest.mark.parametrize(("split", "held"), [("val", 101), ("test", 203)])
def test_a_planted_copy_is_refused_whatever_it_is_called(root: Path, split: str, held: int) -> None:
    """Guards against a validation or test picture in training, under another name and id."""
    shutil.copy(root / f"{split}/{held}.png", root / "train/7.png")
    with pytest.raises(InputError) as caught:
        open_training(config(root))
    said = str(caught.value)
    assert "1 of the 12 training examples" in said and "'7'" in said and f"'{held}'" in said and f"{split!r}" in said
    assert "data.on_leak=drop" in said


def test_validation_is_held_out_beside_the_test_split(root: Path) -> None:
    """Guards against a run that is tested elsewhere and chooses its weights on pictures that it trains on."""
    shutil.copy(root / "val/101.png", root / "train/7.png")
    tested = replace(config(root), test_split="test")
    assert {one.split for one in held_out(tested)} == {"val", "test"}
    with pytest.raises(InputError, match="'val'"):
        open_training(tested)


def test_a_leak_is_dropped_or_kept_as_asked(root: Path) -> None:
    """Guards against a picture that is dropped without a word, and one that is kept without a word."""
    for held, own in ((101, 7), (202, 3)):
        shutil.copy(next(root.glob(f"*/{held}.png")), root / f"train/{own}.png")
    dropped, message = open_training(config(root, on_leak="drop"))
    assert (
        set(ids(dropped)) == {str(number) for number in range(12)} - {"3", "7"}
        and "left out of training, as held out: 2 of 12 examples" in message
    )
    assert dropped.ledger.summary() == "12 offered = 10 used + 2 rejected (leak 2)"
    dropped.ledger.check(0.01)  # the user chose it: no sign of broken data
    kept, message = open_training(config(root, on_leak="keep"))
    assert len(kept) == 12 and "kept in training although held out: 2 of 12" in message
    assert kept.ledger.counts("note") == {"leak": 2} and kept.ledger.rejected == 0


def test_groups_are_compared_within_one_set(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Guards against a patient on both sides, and against two hospitals that number their patients alike."""
    other = tmp_path_factory.mktemp("other")
    write(other, "train", range(50, 54), patient="p1")
    rows = (root / "val/data.jsonl").read_text().replace('"id": "102"', '"id": "102", "patient": "p1"')
    (root / "val/data.jsonl").write_text(rows)
    mixed = {"more": OtherDataConfig(path=str(other))}
    assert len(open_training(config(root, others=mixed)).dataset) == 16
    write(root, "extra", range(60, 62), patient="p1")
    same = {"more": OtherDataConfig(path=str(root), split="extra")}
    with pytest.raises(InputError, match="the group 'p1', as is '102'"):
        open_training(config(root, others=same))


def test_a_leak_in_a_mixture_is_found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Guards against a further set that holds the main set's validation pictures."""
    other = tmp_path_factory.mktemp("other")
    write(other, "train", range(50, 56))
    shutil.copy(root / "val/100.png", other / "train/53.png")
    others = {"more": OtherDataConfig(path=str(other))}
    with pytest.raises(InputError, match=r"1 of the 6 training examples of .*other.*'100'"):
        open_training(config(root, others=others))
    dataset, message = open_training(config(root, others=others, on_leak="drop"))
    assert [len(part) for part in dataset.parts.values()] == [12, 5] and "'53'" in message
    assert "53" not in {dataset.example(index, epoch).id for epoch in range(4) for index in range(len(dataset))}


def test_another_runs_splits_are_held_out_too(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Guards against a first stage that trains on what the run is later measured on."""
    first = tmp_path_factory.mktemp("first")
    write(first, "train", range(70, 76))
    write(first, "val", range(80, 83))
    shutil.copy(root / "test/200.png", first / "train/72.png")
    assert len(open_training(config(first)).dataset) == 6
    with pytest.raises(InputError, match=r"'72' .* '200'"):
        open_training(config(first), also=(config(root),))


def test_a_split_of_another_name_is_held_out_where_it_is_measured(root: Path) -> None:
    """Guards against a final table on a split that nobody compared."""
    write(root, "hidden", range(300, 303))
    shutil.copy(root / "hidden/301.png", root / "train/5.png")
    assert len(open_training(config(root)).dataset) == 12
    with pytest.raises(InputError, match=r"'301' .* of 'hidden'"):
        open_training(replace(config(root), test_split="hidden"))


def test_copies_across_a_drawn_split_leave_training(tmp_path: Path) -> None:
    """Guards against refusing a folder with two copies of a photo only because chiasm itself put one on each side."""
    write(tmp_path, "train", range(60))
    for number in range(30):
        shutil.copy(tmp_path / f"train/{number}.png", tmp_path / f"train/{number + 30}.png")
    dataset, message = open_training(config(tmp_path))
    (val,) = held_out(config(tmp_path))
    twins = {str((int(example.id) + 30) % 60) for example in val.examples}
    lost = twins - {example.id for example in val.examples}
    assert lost and dataset.ledger.counts() == {"leak": len(lost)} and f"held out: {len(lost)} of " in message
    assert not set(ids(dataset)) & (twins | {example.id for example in val.examples})


def test_classes_are_no_groups(tmp_path: Path) -> None:
    """Guards against refusing every folder of classes, which all splits share."""
    for split, numbers in (("train", range(8)), ("val", range(20, 24))):
        for number in numbers:
            folder = tmp_path / split / ("cat" if number % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(folder / f"{number}.png")
    assert len(open_training(config(tmp_path)).dataset) == 8


def test_copies_of_other_bytes_are_found_by_their_looks(root: Path) -> None:
    """Guards against a re-encoded, smaller copy that no hash finds; and against calling other pictures copies."""
    Image.fromarray(picture(103)).resize((30, 30)).save(root / "train/9.png")
    assert len(open_training(config(root)).dataset) == 12
    with pytest.raises(InputError, match=r"1 of the 12 .*'9' .* looks like .*'103'"):
        open_training(config(root, leak_likeness=0.95))


def test_the_shortcut_by_size_finds_what_comparing_all_bytes_finds(root: Path) -> None:
    """An independent way: every file's bytes against every other's, with many equal sizes and some equal contents."""
    random = np.random.default_rng(3)
    for split in ("train", "val", "test"):
        for path in (root / split).glob("*.png"):
            # Trailing bytes do not stop a PNG from decoding, and give many files one size and few one content.
            path.write_bytes((root / "train/0.png").read_bytes() + bytes(random.integers(0, 3, 2).tolist()))
    held = {path.read_bytes() for split in ("val", "test") for path in (root / split).glob("*.png")}
    expected = {path.stem for path in (root / "train").glob("*.png") if path.read_bytes() in held}
    dataset, _ = open_training(config(root, on_leak="drop"))
    assert 0 < len(expected) < 12 and set(ids(dataset)) == {str(number) for number in range(12)} - expected


def test_a_broken_picture_is_left_to_those_who_tell_of_it(root: Path) -> None:
    """Guards against a traceback of the guard for a file that vanishes or is cut short."""
    (root / "train/2.png").write_bytes((root / "train/2.png").read_bytes()[:40])
    (root / "val/100.png").write_bytes((root / "train/2.png").read_bytes()[:40])
    (root / "train/4.png").unlink()
    (root / "train/4.png").symlink_to(root / "nowhere.png")
    with pytest.raises(InputError, match=r"'2' .* has the very bytes of '100'"):
        open_training(config(root, leak_likeness=0.9))
    (root / "val/100.png").write_bytes(b"")
    dataset, _ = open_training(config(root, leak_likeness=0.9))
    assert len(dataset) == 11 and dataset.ledger.counts() == {"missing_image": 1}


def test_generated_pictures_are_not_compared(root: Path) -> None:
    """Guards against drawing a generator's every picture to hash it."""
    data = BoxesConfig(train_pictures=4, questions_per_picture=2)
    assert held_out(RunConfig(recipe="", data=data)) == []
    assert len(open_training(RunConfig(recipe="", data=data)).dataset) == 4


def test_one_of_several_images_is_a_leak_and_texts_alone_by_their_words(tmp_path: Path) -> None:
    """Guards against pairs that are compared by their first image alone, and a guard that stops at a text alone."""

    def talk(words: str, *images: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": words}, {"from": "gpt", "value": "Yes."}]
        return {"image": list(images), "conversations": turns}

    for number in range(6):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "1.png", tmp_path / "copy.png")
    train = [talk("Same?", "0.png", "1.png"), talk("Same?", "2.png", "3.png"), talk("Hi."), talk("Bye.")]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "val.json").write_text(json.dumps([talk("What?", "copy.png"), talk("Hi."), talk("What?", "5.png")]))
    (tmp_path / "test.json").write_text(json.dumps([talk("What?", "4.png")]))
    with pytest.raises(InputError, match=r"2 of the 4 .*'train-1' .* has the very bytes of 'val-1'"):
        open_training(config(tmp_path, leak_likeness=0.95))
    dataset, message = open_training(config(tmp_path, on_leak="drop"))
    assert ids(dataset) == ["train-2", "train-4"] and "2 of 4" in message
