"""Examples are functions of (split, index, seed, epoch), and wrong words are refused."""

from dataclasses import replace

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Example
from chiasm.data.dataset import Dataset, ListDataset, choose_captions, evenly_spread, texts_of
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.data.generated.sort_of_clevr import SortOfClevrConfig
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset

SCENES = ScenesConfig(languages=("en", "en", "zh"), train_pictures=40, eval_pictures=30, questions_per_picture=5)


def shown(example: Example) -> tuple[object, ...]:
    return (example.id, example.inputs["image"].load().tobytes(), example.captions, example.questions)


def test_an_example_depends_on_its_number_alone() -> None:
    """Guards against state: asked in any order, in any process, after any other, an example is the same."""
    first, again = open_dataset(SCENES, "train", 0), open_dataset(SCENES, "train", 0)
    forwards = [shown(first.example(index, 2)) for index in range(10)]
    backwards = [shown(again.example(index, 2)) for index in reversed(range(10))]
    assert forwards == backwards[::-1]
    other = open_dataset(SCENES, "train", 1)
    assert [shown(other.example(index, 2))[1:] for index in range(10)] != [one[1:] for one in forwards]


def test_epochs_ask_new_questions_about_the_same_picture() -> None:
    """Guards against an epoch that changes the picture, or that asks the same again."""
    dataset = open_dataset(SCENES, "train", 0)
    for index in range(5):
        one, other = dataset.example(index, 0), dataset.example(index, 1)
        assert np.array_equal(one.inputs["image"].load(), other.inputs["image"].load())
        assert one.captions == other.captions and one.truth == other.truth
        assert one.questions != other.questions


def test_scenes_have_what_the_config_says() -> None:
    """Guards against lost languages and miscounted pictures or questions; weights of languages are drawn."""
    for split, length in (("train", 40), ("val", 30), ("test", 30), ("compositional", 30)):
        dataset = open_dataset(SCENES, split, 0)
        examples = [dataset.example(index) for index in range(len(dataset))]
        assert len(examples) == length == dataset.ledger.used == dataset.ledger.offered
        assert len({example.id for example in examples}) == length
        for example in examples:
            assert [caption.language for caption in example.captions] == ["en", "zh"]
            assert len(example.questions) == 5
            assert all(example.truth.agrees(caption.text) for caption in example.captions)
    languages = [question.language for example in examples for question in example.questions]
    assert 0.5 < languages.count("en") / len(languages) < 0.83


def test_held_out_pictures_differ_from_each_other() -> None:
    """Guards against a gallery with two right answers of which one is scored wrong."""
    dataset = open_dataset(replace(SCENES, eval_pictures=400), "val", 0)
    captions = [dataset.example(index).captions[0].text for index in range(400)]
    assert len(set(captions)) == 400


@pytest.mark.parametrize(
    ("changes", "split", "part"),
    [
        ({}, "tset", "did you mean 'test'"),
        ({"source": "sort_of_clevr"}, "compositional", "one of train, val, test"),
        ({"languages": ("fr",)}, "train", "'fr'"),
        ({"languages": ("en", "fr")}, "train", "'fr'"),
        ({"source": "sort_of_clevr", "languages": ("fr",)}, "train", "'fr'"),
    ],
)
def test_what_a_generator_cannot_make_is_refused(changes: dict[str, object], split: str, part: str) -> None:
    """Guards against a KeyError deep in a sentence, and against English where French was asked for."""
    with pytest.raises(InputError) as caught:
        open_dataset(replace(SCENES, **changes), split, 0)
    assert part in str(caught.value)


def test_captions_are_chosen_by_seed_epoch_and_example() -> None:
    """Guards against a caption drawn twice, a choice that depends on the batch, and captions never drawn."""
    example = Example("a", {}, tuple(Caption(f"{number}") for number in range(5)))
    assert choose_captions(example, 5, 0, 0) == choose_captions(example, 9, 0, 0) == list(example.captions)
    drawn = [choose_captions(example, 2, 0, epoch) for epoch in range(40)]
    assert drawn == [choose_captions(example, 2, 0, epoch) for epoch in range(40)]
    assert all(len(set(two)) == 2 for two in drawn)
    assert {caption.text for two in drawn for caption in two} == set("01234")
    assert drawn != [choose_captions(example, 2, 1, epoch) for epoch in range(40)]
    assert drawn != [choose_captions(replace(example, id="b"), 2, 0, epoch) for epoch in range(40)]
    assert choose_captions(Example("none", {}), 1, 0, 0) == []


def test_a_list_is_a_dataset() -> None:
    """Guards against an epoch that changes what was read from files."""
    examples = [Example("a", {}, (Caption("one"),)), Example("b", {})]
    dataset = ListDataset("test", examples, Ledger())
    assert len(dataset) == 2 and dataset.example(1, 7) is examples[1]
    assert list(texts_of(examples)) == ["one"]


def kinds(dataset: Dataset, count: int) -> set[str]:
    return {question.kind for index in range(count) for question in dataset.example(index, 1).questions}


def test_only_the_chosen_kinds_are_asked() -> None:
    """Guards against other kinds in a first stage of training, and against other questions than the whole set has."""
    for config, chosen in (
        (SCENES, ("count", "spatial")),
        (SortOfClevrConfig(train_pictures=8, symmetries=True), ("non-relational",)),
    ):
        whole = open_dataset(config, "train", 0)
        part = open_dataset(replace(config, question_kinds=chosen), "train", 0)
        assert kinds(whole, 8) > set(chosen) == kinds(part, 8)
        assert len(part) == len(whole) and part.split == "train" and part.ledger.summary() == whole.ledger.summary()
        for index in range(4):
            wanted = [one for one in whole.example(index, 1).questions if one.kind in chosen]
            assert list(part.example(index, 1).questions) == wanted
            assert part.example(index, 1).id == whole.example(index, 1).id


def test_an_unknown_kind_is_refused() -> None:
    """Guards against a run that trains on no question because a word was misspelt."""
    with pytest.raises(InputError, match="did you mean 'count'"):
        open_dataset(replace(SCENES, question_kinds=("cuont",)), "train", 0)


def test_places_are_evenly_spread() -> None:
    assert evenly_spread(10, 4) == [0, 2, 5, 7]
    assert evenly_spread(3, 9) == [0, 1, 2] and evenly_spread(0, 2) == []
