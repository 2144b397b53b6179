"""Rows of `data.jsonl` that name several images and further inputs."""

from pathlib import Path

from talk import photos, write_lines

from chiasm.core.types import Example
from chiasm.data.sources import read_source


def names(example: Example, name: str = "image") -> list[str]:
    value = example.inputs.get(name, ())
    return [Path(ref.path).name for ref in (value if isinstance(value, tuple) else (value,))]


def test_several_images_and_further_inputs_are_read_in_their_order(tmp_path: Path) -> None:
    """Guards against a second image that is dropped, a depth image of another row, and rows of one pair kept apart."""
    photos(tmp_path, ["a.png", "b.png", "depth.png", "left.png", "right.png"])
    rows = [
        {"image": ["b.png", "a.png"], "captions": ["Two dogs."], "inputs": {"depth": "depth.png"}},
        {"image": ["b.png", "a.png"], "question": "Which runs?", "answer": "the second"},
        {"image": ["a.png", "b.png"], "captions": ["A pair."], "inputs": {"sides": ["left.png", "right.png"]}},
        {"image": "a.png", "captions": ["One dog."], "inputs": {}},
    ]
    write_lines(tmp_path / "data.jsonl", [row | {"split": "train"} for row in rows])
    found = read_source(tmp_path, "train")
    assert (found.format, found.ledger.counts()) == ("data_jsonl", {})
    pair, turned, single = found.examples
    assert (names(pair), names(pair, "depth")) == (["b.png", "a.png"], ["depth.png"])
    assert pair.captions[0].text == "Two dogs." and pair.questions[0].answers == ("the second",)
    assert (names(turned), names(turned, "sides")) == (["a.png", "b.png"], ["left.png", "right.png"])
    assert list(single.inputs) == ["image"] and names(single) == ["a.png"]
    assert pair.group == turned.group == single.group != ""


def test_a_file_that_is_absent_is_refused_by_name(tmp_path: Path) -> None:
    """Guards against an example that is trained on with one image of two, or without its depth."""
    photos(tmp_path, ["a.png"])
    rows = [
        {"image": ["a.png", "gone.png"], "captions": ["Two dogs."]},
        {"image": "a.png", "captions": ["One dog."], "inputs": {"depth": "gone.png"}},
        {"image": ["a.png", ""], "captions": ["Two dogs."]},
        {"image": [], "captions": ["No dog."]},
        {"image": "a.png", "captions": ["One dog."], "inputs": {"image": "a.png"}},
        {"image": "a.png", "captions": ["One dog."], "inputs": ["a.png"]},
        {"image": "a.png", "captions": ["One dog."], "inputs": "of any kind"},
    ]
    write_lines(tmp_path / "data.jsonl", [row | {"split": "train"} for row in rows])
    found = read_source(tmp_path, "train")
    refused = {entry.row: (entry.code, entry.text) for entry in found.ledger.entries}
    codes = ["missing_image", "missing_image", "image", "no_image", "inputs", "inputs"]
    assert {row: code for row, (code, _) in refused.items()} == dict(enumerate(codes, 1))
    assert "gone.png" in refused[1][1] and "gone.png" in refused[2][1]
    assert [example.source.row for example in found.examples] == [7]
