"""Messages as OpenAI's interface writes them, and as LLaMA-Factory and TRL do."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from talk import messages, photos, write_lines, write_list

from chiasm.core.types import Example
from chiasm.data.sources import read_source


def shown(example: Example) -> list[str]:
    value = example.inputs.get("image", ())
    return [Path(ref.path or "inside").name for ref in (value if isinstance(value, tuple) else (value,))]


def url(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name}}


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_images_stand_where_the_parts_show_them(tmp_path: Path) -> None:
    """Guards against images of several turns in another order, and a turn without its image."""
    photos(tmp_path, ["a.png", "b.png", "c.png"])
    row = messages([url("b.png"), said("What is it?")], "A dog.", [said("And this?"), url("a.png")], "A cat.")
    row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    other = messages(
        [{"type": "image", "image": "c.png"}, {"type": "image", "path": "a.png"}, said("Which?")], "The first."
    )
    write_lines(tmp_path / "chat.jsonl", [row, other, messages("Hi.", "Hello.")])
    found = read_source(tmp_path / "chat.jsonl", "train")
    assert found.format == "messages_jsonl" and not found.ledger.counts()
    first, second, third = found.examples
    assert (shown(first), shown(second), shown(third)) == (["b.png", "a.png"], ["c.png", "a.png"], [])
    texts = [turn.text for turn in first.turns]
    assert texts == ["Be brief.", "<image>\nWhat is it?", "A dog.", "And this?\n<image>", "A cat."]
    assert second.turns[0].text == "<image>\n<image>\nWhich?"


def test_images_of_the_rows_own_list_fill_the_placeholders(tmp_path: Path) -> None:
    """Guards against the convention of LLaMA-Factory and TRL: `<image>` or a part without a name, and `images`."""
    photos(tmp_path, ["a.png", "b.png"])
    rows = [
        messages("<image>What is it?", "A dog.", "<image>And it?", "A cat.", images=["b.png", "a.png"]),
        messages([{"type": "image"}, said("What?")], "A dog.", images=["a.png"]),
        messages("What?", "Two dogs.", images=["a.png", "b.png"], system="Be brief."),
        messages([url("a.png"), said("or <image>?")], "The first.", images=["b.png"]),
        messages([{"type": "image"}, said("What?")], "A dog.", images=[{"path": "b.png"}]),
    ]
    write_list(tmp_path / "chat.json", rows)
    found = read_source(tmp_path, "train")
    both = ["a.png", "b.png"]
    assert [shown(one) for one in found.examples] == [both[::-1], ["a.png"], both, both, ["b.png"]]
    assert [turn.text for turn in found.examples[2].turns] == ["Be brief.", "<image>\n<image>\nWhat?", "Two dogs."]


def test_an_image_inside_the_row_is_decoded(tmp_path: Path) -> None:
    """Guards against a data: URI that is taken for a path, and equal images in two groups."""
    photos(tmp_path, ["a.png"])
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    write_lines(tmp_path / "chat.jsonl", [messages([url(uri), said(f"What {n}?")], "A dog.") for n in range(2)])
    first, second = read_source(tmp_path, "train").examples
    expected = np.asarray(Image.open(tmp_path / "a.png"))
    assert (first.inputs["image"].load() == expected).all()
    assert first.group == second.group == first.inputs["image"].content_key()


def test_planted_faults_are_refused_by_file_and_line(tmp_path: Path) -> None:
    """Guards against an address that is fetched, a sense that is dropped, and words that nobody says."""
    photos(tmp_path, ["a.png"])
    narrator = messages("Hi.", "Hello.")
    narrator["messages"][1]["role"] = "tool"
    rows = [
        messages([url("https://example.org/a.png"), said("What?")], "A dog."),
        messages([url("data:image/png;base64,###"), said("What?")], "A dog."),
        messages([url("gone.png"), said("What?")], "A dog."),
        messages([{"type": "input_audio"}, said("What?")], "A dog."),
        messages([{"type": "image"}, said("What?")], "A dog."),
        messages([url("a.png"), said("What?")], "A dog.", images=["a.png"]),
        narrator,
        messages("Hi.", None),
        messages(3.5, "Hello."),
        {"messages": "Hi."},
        messages("Hi.", "Hello.", "Bye."),
        messages("Hi.", "Hello.", image="a.png", images=["a.png"]),
        messages("Hi.", "Hello."),
    ]
    file = tmp_path / "train_chat.jsonl"
    write_lines(file, rows)
    found = read_source(file, "train", "messages_jsonl")
    refused = {entry.row: entry.code for entry in found.ledger.entries if entry.kind == "rejected"}
    codes = ["address", "embedded_image", "missing_image", "other_sense", "placeholders", "placeholders"]
    codes += ["unknown_role", "empty_answer", "turns", "turns", "roles", "image"]
    assert refused == dict(enumerate(codes, 1))
    assert {entry.file for entry in found.ledger.entries} == {str(file)}
    assert [one.source.row for one in found.examples] == [13]
