"""LLaVA's conversations as they are published: lists and lines, one image, several or none, ids that repeat."""

from pathlib import Path

import pytest
from talk import llava, photos, write_lines, write_list

from chiasm.core.errors import InputError
from chiasm.core.types import Example, ImageRef, Turn
from chiasm.data.ledger import RejectedDataError
from chiasm.data.sources import FileData, read_source

ASK, SAY = "<image>\nWhat is it?", "A dog."


def by_id(found: FileData) -> dict[str, Example]:
    return {example.id: example for example in found.examples}


def test_conversations_with_one_image_several_and_none_are_read(tmp_path: Path) -> None:
    """Guards against a lost image, turn or line, and against images in another order than they are named."""
    photos(tmp_path / "coco", ["a.png", "b.png"])
    rows = [
        llava(ASK, SAY, "What does it do?", "1. It runs.\n  2. It barks.", id="one", image="coco/a.png"),
        llava("<image> or <image>?", "The first.", id="two", image=["coco/b.png", "coco/a.png"]),
        llava("Who are you?", "A model.", id="none"),
        llava("What is it?", SAY, id="no placeholder", image="coco/b.png"),
    ]
    write_list(tmp_path / "train.json", rows)
    write_lines(tmp_path / "val.jsonl", rows[:1])
    found = read_source(tmp_path, "train")
    assert (found.format, found.splits, found.ledger.used) == ("llava_json", ("train", "val"), 4)
    examples = by_id(found)
    one = examples["one"]
    assert one.turns == (
        Turn("user", ASK),
        Turn("assistant", SAY),
        Turn("user", "What does it do?"),
        Turn("assistant", "1. It runs.\n  2. It barks."),
    )
    assert isinstance(one.inputs["image"], ImageRef) and one.inputs["image"].path == str(tmp_path / "coco/a.png")
    assert [Path(ref.path).name for ref in examples["two"].inputs["image"]] == ["b.png", "a.png"]
    assert "image" not in examples["none"].inputs
    assert examples["no placeholder"].turns[0].text == "<image>\nWhat is it?"
    assert [turn.text for turn in read_source(tmp_path, "val").examples[0].turns][1] == SAY


def test_planted_faults_are_refused_by_file_and_row(tmp_path: Path) -> None:
    """Guards against a row that is trained on without its image, with one too many, or with nothing to learn."""
    photos(tmp_path, ["a.png"])
    unknown = llava(ASK, SAY, image="a.png")
    unknown["conversations"][0]["from"] = "narrator"
    rows = [
        llava(ASK, SAY, image="a.png"),
        llava(ASK, SAY),
        llava("<image><image> What?", SAY, image="a.png"),
        llava(ASK, "", image="a.png"),
        unknown,
        llava(ASK, SAY, image="gone.png"),
        llava(ASK, SAY, image="https://example.org/a.png"),
        llava(ASK, SAY, image="../a.png"),
        llava(ASK, image="a.png"),
        llava(ASK, SAY, image=["a.png", ""]),
        llava("<video>\nWhat?", SAY, video="a.mp4"),
        "no object",
        {"id": "x", "image": "a.png", "conversations": []},
    ]
    file = tmp_path / "train_chat.json"
    write_list(file, rows)
    found = read_source(file, "train")
    refused = sorted(
        ((entry.row, entry.code, entry.file) for entry in found.ledger.entries if entry.kind == "rejected"),
        key=lambda entry: entry[0] or 0,
    )
    codes = ["placeholders", "placeholders", "empty_answer", "unknown_role", "missing_image", "address", "path_escape"]
    codes += ["roles", "no_image", "other_sense", "json", "no_turns"]
    assert refused == [(row, code, str(file)) for row, code in enumerate(codes, 2)]
    assert [example.source.row for example in found.examples] == [1]
    texts = {entry.row: entry.text for entry in found.ledger.entries}
    assert "gone.png" in texts[6] and "narrator" in texts[5] and "nothing is downloaded" in texts[7]


def test_a_file_of_nothing_usable_says_why(tmp_path: Path) -> None:
    """Guards against an empty training set without a word."""
    file = tmp_path / "train_chat.json"
    write_list(file, [llava(ASK, SAY), llava(ASK, SAY, image="gone.png")])
    with pytest.raises(RejectedDataError, match=r"train_chat\.json:1: 1 <image> and 0 images") as caught:
        read_source(file, "train").ledger.check(0.01)
    assert "gone.png" in str(caught.value)
    (tmp_path / "one.json").write_text('{"conversations": []}')
    with pytest.raises(InputError, match="no list"):
        read_source(tmp_path / "one.json", "train", "llava_json")
    with pytest.raises(InputError, match=r"holds conversations, but no list of them"):
        read_source(tmp_path / "one.json", "train")


def test_rows_about_one_image_share_a_group_and_a_split(tmp_path: Path) -> None:
    """Guards against an image whose one conversation is trained on while the other is measured."""
    names = [f"{number}.png" for number in range(30)]
    photos(tmp_path, names)
    rows = [llava(ASK, f"{name} {turn}", id=name, image=name) for name in names for turn in range(3)]
    rows += [llava("<image><image>?", "Both.", image=[names[n], names[n + 1]]) for n in range(0, 6, 2)]
    rows += [llava("Hi.", "Hello.") for _ in range(2)]
    write_list(tmp_path / "chat.json", rows)
    side: dict[str, str] = {}
    count = 0
    for split in ("train", "val", "test"):
        for example in read_source(tmp_path, split).examples:
            count += 1
            value = example.inputs.get("image", ())
            shown = [ref.path for ref in (value if isinstance(value, tuple) else (value,))]
            for name in shown or [example.turns[0].text]:
                assert side.setdefault(name, split) == split
            assert example.group
    assert count == len(rows)
    ids = [one.id for split in ("train", "val", "test") for one in read_source(tmp_path, split).examples]
    assert len(set(ids)) == len(ids)
    groups = {one.id: one.group for one in read_source(tmp_path, side[str(tmp_path / "0.png")]).examples}
    assert groups["0.png"] == groups["1.png"] != groups.get("20.png", "")


def test_languages_are_told_by_the_script_of_most_turns(tmp_path: Path) -> None:
    """Guards against Chinese conversations in an English run, and an English one refused for a Chinese word."""
    photos(tmp_path, ["a.png"])
    rows = [
        llava("<image>\n图里有什么？", "一只狗。", image="a.png"),
        llava(ASK, SAY, "What does the sign say?", "停", image="a.png"),
        llava(ASK, "Ein Hund.", image="a.png", language="de"),
    ]
    write_list(tmp_path / "chat.json", rows)
    read = {code: read_source(tmp_path, "train", languages=(code,)).examples for code in ("en", "zh", "de")}
    assert {code: [one.source.row for one in found] for code, found in read.items()} == {
        "en": [2],
        "zh": [1],
        "de": [3],
    }
    assert read_source(tmp_path, "train").ledger.counts() == {"other_language": 2}
