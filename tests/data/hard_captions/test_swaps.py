"""Swapped captions: what each rule makes, what it leaves alone, and that a scene's swap is never true of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from chiasm.core.types import Caption, Example
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.data.generated.scene_language import read_caption
from chiasm.data.hard_captions.lexicon import KINDS
from chiasm.data.hard_captions.swaps import choose_swap, swapped_texts, swaps
from chiasm.data.opening import open_dataset
from chiasm.data.sources import read_source


def made(text: str, language: str = "en", kind: str = "", others: tuple[str, ...] = ()) -> list[str]:
    said = [Caption(one, "en" if one.isascii() else "zh") for one in others]
    return [one.text for one in swaps(Caption(text, language), said) if kind in ("", one.kind)]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("A girl in a red hat and a blue coat .", "attribute", "A girl in a blue hat and a red coat ."),
        ("Red car beside a blue house", "attribute", "Blue car beside a red house"),
        ("a young woman sings", "attribute", "an old woman sings"),
        ("An old man in a boat", "attribute", "A young man in a boat"),
        ("a large bridge", "attribute", "a small bridge"),
        ("Two men and three women", "count", "Three men and two women"),
        ("a man stands in front of a house", "relation", "a man stands behind a house"),
        ("A dog jumps over a log", "relation", "A dog jumps under a log"),
        ("he raises his left arm", "relation", "he raises his right arm"),
        ("a red circle top left, a cube", "relation", "a red circle bottom left, a cube"),
        ("A dog is chasing a cat .", "order", "A cat is chasing a dog ."),
        ("A black dog chases a white dog", "order", "A white dog chases a black dog"),
        ("穿红色衣服的人和蓝色的车。", "attribute", "穿蓝色衣服的人和红色的车。"),
        ("追红球的黑狗。", "attribute", "追黑球的红狗。"),
        ("大的圆形", "attribute", "小的圆形"),
        ("两个男人和三个女人。", "count", "三个男人和两个女人。"),
        ("站在房子前面的人。", "relation", "站在房子后面的人。"),
        ("一只猫在树下睡觉。", "relation", "一只猫在树上睡觉。"),
        ("两个人在水里游泳。", "relation", "两个人在水外游泳。"),
        ("一个男孩骑着一匹马", "order", "一匹马骑着一个男孩"),
        ("白狗追黑狗。", "order", "黑狗追白狗。"),
        ("一只狗追着一只猫。", "order", "一只猫追着一只狗。"),
    ],
)  # fmt: skip
def test_each_rule_swaps_what_it_says(text: str, kind: str, expected: str) -> None:
    """Stated values; guards against a rule that changes more than one thing, a lost capital, and "a old man"."""
    assert expected in made(text, "en" if text.isascii() else "zh", kind)


@pytest.mark.parametrize(
    "text",
    [
        "a black and white dog",
        "dogs play in the snow",
        "a man next to a woman",
        "a boy and a girl",
        "one of the kids left the house",
        "the game is over",
        "a boy hugs a girl",
        "黑白相间的猫。",
        "一起玩的人们。",
        "白天的海。",
        "小孩在玩。",
        "人和狗。",
    ],
)
def test_what_would_say_the_same_or_is_another_word_stays(text: str) -> None:
    """Guards against a true sentence as a negative, and against characters changed inside other words."""
    assert made(text, "en" if text.isascii() else "zh") == []


def test_equal_things_in_other_colours_say_the_same() -> None:
    """Guards against "a white dog and a black dog" as a negative of "a black dog and a white dog"."""
    found = made("a black dog and a white dog")
    assert "a white dog and a black dog" not in found and found
    assert "黑狗和白狗。" not in made("白狗和黑狗。", "zh")


def test_what_another_caption_says_is_not_put_in() -> None:
    """Guards against a swap that another person's caption says is true, whichever language it is in."""
    free = made("two dogs run", "en", "count")
    assert len(free) == 1
    taken = free[0].split()[0]
    assert made("two dogs run", "en", "count", (f"{taken} dogs",)) != free
    in_chinese = {"three": "三", "four": "四", "five": "五", "six": "六"}[taken]
    assert made("two dogs run", "en", "count", (f"{in_chinese}只狗。",)) != free
    everything = ("three four five six", "red green blue yellow purple black white brown grey pink orange")
    assert made("two blue cars", "en", "", everything) == []
    assert made("a man in front of a bus", "en", "relation", ("a man behind a bus",)) == []
    assert made("a dog bites a cat", "en", "order", ("A cat bites a dog .",)) == []


def test_languages_without_rules_have_no_swaps() -> None:
    """Guards against English rules on German words."""
    assert swaps(Caption("ein Hund in the red car", "de")) == []


@pytest.mark.parametrize("split", ["train", "compositional"])
def test_a_swap_of_a_scene_is_never_true(split: str) -> None:
    """Guards against a true negative where the truth is known: each swap is read back and differs from the scene."""
    config = ScenesConfig(languages=("en", "zh"), train_pictures=60, eval_pictures=60)
    dataset = open_dataset(config, split, 0)
    kinds, by_language = set(), {"en": 0, "zh": 0}
    for number in range(60):
        example = dataset.example(number)
        for caption in example.captions:
            for swap in swaps(caption, example.captions, example.truth):
                kinds.add(swap.kind)
                by_language[caption.language] += 1
                assert not example.truth.agrees(swap.text), (caption.text, swap.text)
                said = read_caption(swap.text)
                assert said is not None and said != read_caption(caption.text)
    assert kinds == {"attribute", "relation", "order"} and min(by_language.values()) > 200


def test_the_truth_decides_where_it_is_known() -> None:
    """Guards against two circles exchanged by colour, which is sure only where their places are known."""
    config = ScenesConfig(train_pictures=200, questions_per_picture=1)
    dataset = open_dataset(config, "train", 0)
    for number in range(200):
        example = dataset.example(number)
        objects = example.truth.scene
        if len(objects) == 2 and objects[0].shape == objects[1].shape and objects[0].color != objects[1].color:
            break
    caption = example.captions[0]
    with_truth = {one.text for one in swaps(caption, (), example.truth)}
    without = {one.text for one in swaps(caption)}
    exchanged = caption.text.replace(objects[0].color, "#").replace(objects[1].color, objects[0].color)
    assert exchanged.replace("#", objects[1].color) in with_truth - without


def test_draws_depend_on_their_arguments_alone() -> None:
    """Guards against a resumed run with other negatives, one swap for all epochs, and a share that is not kept to."""
    captions = tuple(Caption(f"two red cars in front of {number} blue houses", "en") for number in range(300))
    examples = [Example(f"{number}", {}, (one,)) for number, one in enumerate(captions)]

    def drawn(share: float, epoch: int) -> list[str | None]:
        found = [choose_swap(e, e.captions[0], share, 3, epoch) for e in examples]
        return [None if one is None else one.text for one in found]

    assert drawn(1.0, 0) == drawn(1.0, 0) != drawn(1.0, 1)
    assert None not in drawn(1.0, 0) and set(drawn(0.0, 0)) == {None}
    assert 0.4 < sum(one is not None for one in drawn(0.5, 0)) / 300 < 0.6
    kinds = {choose_swap(e, e.captions[0], 1.0, 3, 0).kind for e in examples}  # type: ignore[union-attr]
    assert kinds == {"attribute", "count", "relation"}
    every = set(swapped_texts(examples))
    assert set(drawn(1.0, 0)) | set(drawn(1.0, 1)) <= every
    changed = replace(examples[0], captions=(Caption("nothing here", "en"),))
    assert choose_swap(changed, changed.captions[0], 1.0, 3, 0) is None


def test_most_real_captions_have_a_swap(real_data: Path) -> None:
    """Guards against rules that fit made-up sentences alone: shares of captions of Flickr8k in both languages."""
    if not (real_data / "flickr8k").is_dir():
        pytest.skip("real data: flickr8k is absent")
    examples = read_source(real_data / "flickr8k", "val", languages=("en", "zh")).examples[:200]
    for language, least in (("en", 0.6), ("zh", 0.45)):
        captions = [(e, one) for e in examples for one in e.captions if one.language == language]
        found = [swaps(one, e.captions) for e, one in captions]
        assert len(captions) > 900
        assert sum(map(bool, found)) > least * len(captions)
        assert {one.kind for some in found for one in some} == set(KINDS)
        for (example, caption), some in zip(captions, found, strict=True):
            assert caption.text not in {one.text for one in some}
            assert not {one.text for one in example.captions} & {one.text for one in some}
