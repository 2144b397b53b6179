"""Every dataset keeps the contract of `data.dataset.Dataset`: the sources of the table, and what is made of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.core.types import Example
from chiasm.data.config import DataConfig
from chiasm.data.dataset import Dataset, MappedDataset, Subset, examples_of, first_examples, order, with_question_kinds
from chiasm.data.files import FilesConfig
from chiasm.data.generated.boxes.dataset import BoxesConfig
from chiasm.data.generated.rainbow import RainbowConfig
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.data.generated.sort_of_clevr import SortOfClevrConfig
from chiasm.data.mixture import MixedDataset
from chiasm.data.opening import SOURCES, open_dataset

SMALL = {
    "files": FilesConfig(),
    "scenes": ScenesConfig(train_pictures=7, eval_pictures=5, questions_per_picture=3),
    "sort_of_clevr": SortOfClevrConfig(train_pictures=7, symmetries=True),
    "boxes": BoxesConfig(train_pictures=8, eval_pictures=4, questions_per_picture=4),
    "rainbow": RainbowConfig(train_pictures=7, eval_pictures=5),
}
"""A few examples of each source; `files` gets its path from a fixture."""


@dataclass(frozen=True)
class Made:
    """One dataset in a way that can be repeated, with what is known of it beforehand."""

    open: Callable[[], Dataset]
    length: int
    used: int
    """Of the ledger: a subset has the ledger of the whole."""
    is_generated: bool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with captions and questions for training and three for validation, and a caption without its image."""
    root = tmp_path_factory.mktemp("files")
    for split, count in (("train", 6), ("val", 3)):
        rows = ["id,image,caption,question,answer,question_type"]
        for number in range(count):
            name = f"{split}{number}.png"
            Image.fromarray(np.full((9, 8, 3), 20 * number + (split == "val"), np.uint8)).save(root / name)
            rows.append(f"{split}{number},{name},a grey square,how grey?,{number},{'odd' if number % 2 else 'even'}")
        rows.append(f"{split}-absent,absent.png,nothing,how?,0,even")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


def config_of(source: str, folder: Path) -> DataConfig:
    return replace(SMALL[source], path=str(folder)) if source == "files" else SMALL[source]


def sizes_of(source: str) -> dict[str, int]:
    known = {"files": (6, 3), "scenes": (7, 5), "boxes": (8, 4), "rainbow": (7, 5), "sort_of_clevr": (7, 200)}
    return dict(zip(("train", "val"), known[source], strict=True))


NAMES = [*SOURCES, "mixed", "subset", "mapped", "question kinds"]


@pytest.fixture(params=NAMES)
def made(request: pytest.FixtureRequest, folder: Path) -> Made:
    """Each dataset in turn."""
    name = request.param

    def training(source: str) -> Dataset:
        return open_dataset(config_of(source, folder), "train", 3)

    if name in SOURCES:
        return Made(lambda: training(name), length := sizes_of(name)["train"], length, name != "files")
    if name == "mixed":
        return Made(
            lambda: MixedDataset({"data": training("scenes"), "own": training("files")}, (1, 2), 2, 3), 13, 13, False
        )
    if name == "subset":
        return Made(lambda: Subset(training("scenes"), [5, 0, 3]), 3, 7, True)
    if name == "mapped":
        return Made(lambda: MappedDataset(training("boxes"), lambda one: replace(one, label="box")), 8, 8, True)
    return Made(lambda: with_question_kinds(training("files"), ["odd"]), 6, 6, False)


def content(example: Example) -> tuple[object, ...]:
    """All that tells two examples apart, pixels included."""
    image = example.inputs["image"]
    return (
        replace(example, inputs={}),
        image.load().shape,
        image.load().tobytes(),
        image.content_key(),
    )


def test_every_source_is_tested() -> None:
    """A source that is added to the table gets a line in `SMALL`, and with it these tests."""
    assert set(SMALL) == set(SOURCES)


def test_length_split_and_ledger(made: Made) -> None:
    """Guards against items that vanish without an entry, and against ids that stand for two examples."""
    dataset = made.open()
    assert len(dataset) == made.length and dataset.split == "train" and dataset.is_generated is made.is_generated
    ledger = dataset.ledger
    assert ledger.used == made.used and ledger.offered == ledger.used + ledger.rejected
    for part in dataset.parts.values():
        ids = [example.id for example in examples_of(part)]
        assert len(ids) == len(set(ids)) == len(part)


def test_an_example_is_a_function_of_index_and_epoch(made: Made) -> None:
    """Guards against state: another opening, asked backwards, gives the same, down to the pixels."""
    dataset, again = made.open(), made.open()
    places = [(index, epoch) for epoch in (0, 2) for index in range(len(dataset))]
    forwards = {place: content(dataset.example(*place)) for place in places}
    assert {place: content(again.example(*place)) for place in reversed(places)} == forwards


def test_parts_stand_for_the_set(made: Made) -> None:
    """Guards against a part that `map_parts` forgets: with each part replaced by itself, nothing changes."""
    dataset = made.open()
    assert sum(map(len, dataset.parts.values())) == len(dataset)
    seen = []

    def same(name: str, part: Dataset) -> Dataset:
        seen.append(name)
        return Subset(part, range(len(part)))

    copy = dataset.map_parts(same)
    assert seen == list(dataset.parts) and len(copy) == len(dataset) and copy.split == dataset.split
    for epoch in (0, 1):
        for index in range(len(dataset)):
            assert content(copy.example(index, epoch)) == content(dataset.example(index, epoch))


def test_a_subset_is_those_examples(made: Made) -> None:
    """Guards against a subset that counts its own places, or forgets the epoch."""
    dataset = made.open()
    subset = Subset(dataset, [len(dataset) - 1, 0])
    assert len(subset) == 2 and subset.ledger.summary() == dataset.ledger.summary()
    assert content(subset.example(0, 1)) == content(dataset.example(len(dataset) - 1, 1))
    assert content(subset.example(1, 1)) == content(dataset.example(0, 1))


def test_the_first_examples_are_all_of_files_and_some_of_a_generator(made: Made) -> None:
    """Guards against a vocabulary learned from a few of a user's files, or from every example of a generator."""
    dataset = made.open()
    expected = sum(min(2, len(part)) if part.is_generated else len(part) for part in dataset.parts.values())
    assert len(list(first_examples(dataset, 2))) == expected


def test_an_epoch_shows_each_place_once_in_an_order_of_its_own(made: Made) -> None:
    """Guards against an order that repeats, or that depends on more than length, seed and epoch."""
    length = len(made.open())
    orders = [order(length, 3, epoch).tolist() for epoch in range(6)]
    assert all(sorted(one) == list(range(length)) for one in orders)
    assert len({tuple(one) for one in orders}) > 1 and order(length, 3, 4).tolist() == orders[4]


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "files"])
def test_generators_draw_by_seed_and_split(source: str) -> None:
    """Guards against a seed that is not used, and against validation images that are training images."""
    config = SMALL[source]
    train, other, val = (
        open_dataset(config, "train", 0),
        open_dataset(config, "train", 1),
        open_dataset(config, "val", 0),
    )
    assert len(val) == sizes_of(source)["val"]

    def keys(dataset: Dataset) -> list[str]:
        return [dataset.example(index).inputs["image"].content_key() for index in range(4)]

    assert keys(train) != keys(other) and not set(keys(train)) & set(keys(val))
