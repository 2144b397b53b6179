"""Which files hold conversations, and which of several is read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from talk import llava, messages, photos, write_lines, write_list

from chiasm.core.errors import InputError
from chiasm.data.sources import read_source
from chiasm.data.sources.conversation_rows import files_with, read_rows


def test_only_lists_and_lines_of_conversations_are_recognised(tmp_path: Path) -> None:
    """Guards against a table or a caption file taken for conversations, and the other way round."""
    write_list(tmp_path / "a.json", [llava("Hi.", "Hello.")])
    write_lines(tmp_path / "b.jsonl", [llava("Hi.", "Hello.")])
    write_lines(tmp_path / "c.jsonl", [messages("Hi.", "Hello.")])
    (tmp_path / "d.json").write_text('{"conversations": []}')
    (tmp_path / "e.jsonl").write_text('{"image": "a.png", "caption": "conversations: []"}\n')
    (tmp_path / "f.txt").write_text('[{"conversations": []}]')
    assert [file.name for file in files_with(tmp_path, "conversations")] == ["a.json", "b.jsonl"]
    assert [file.name for file in files_with(tmp_path, "messages")] == ["c.jsonl"]
    assert files_with(tmp_path / "a.json", "conversations") and not files_with(tmp_path / "gone", "messages")


def test_a_long_first_row_is_recognised_by_the_end_of_the_file(tmp_path: Path) -> None:
    """Guards against an image inside the first row that hides the key."""
    row = {"images": ["data:image/png;base64," + "A" * 200_000], **messages("Hi.", "Hello.")}
    write_lines(tmp_path / "a.jsonl", [row])
    assert files_with(tmp_path / "a.jsonl", "messages")


def test_several_files_need_the_names_of_splits(tmp_path: Path) -> None:
    """Guards against one of two files that is read by chance."""
    for name in ("one.json", "two.json"):
        write_list(tmp_path / name, [llava("Hi.", "Hello.")])
    with pytest.raises(InputError, match=r"several files of conversations: one\.json, two\.json"):
        read_source(tmp_path, "train")
    with pytest.raises(InputError, match="holds no file of conversations"):
        read_rows(tmp_path, "train", "messages")


def test_the_split_and_the_group_may_be_keys_of_the_row(tmp_path: Path) -> None:
    """Guards against a patient on both sides, and rows whose split is drawn although it is named."""
    photos(tmp_path, ["a.png"])
    rows = [llava("Hi.", "Hello.", split=split, patient="p") for split in ("train", "val")]
    write_list(tmp_path / "chat.json", rows)
    found = read_source(tmp_path, "validation")
    assert (found.splits, [one.source.row for one in found.examples]) == (("train", "val"), [2])
    assert found.examples[0].group == "p"


def test_a_file_called_data_jsonl_may_hold_conversations(tmp_path: Path) -> None:
    """Guards against a file that is taken for a table by its name."""
    write_lines(tmp_path / "data.jsonl", [messages("Hi.", "Hello.")])
    assert read_source(tmp_path, "train").format == "messages_jsonl"


def test_control_characters_leave_the_words_and_lines_stay(tmp_path: Path) -> None:
    """Guards against a terminal escape in an answer, and a list that loses its lines."""
    write_list(tmp_path / "chat.json", [llava("Hi\u200b.", "One:\n\t- a\x1b[31m b\r\n\n- c  ")])
    assert read_source(tmp_path, "train").examples[0].turns[1].text == "One:\n\t- a b\n\n- c"


def test_the_documented_rows_are_read(tmp_path: Path) -> None:
    """Guards against an example in docs/data.md that the reader refuses."""
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    listed, lines = re.findall(r"```\n(.*?)```", page[page.index("## Conversations: `llava_json`") :], re.DOTALL)[:2]
    photos(tmp_path, ["0001.jpg", "0002.jpg"])
    (tmp_path / "train.json").write_text(listed)
    decoder, rest, rows = json.JSONDecoder(), lines.strip(), list[Any]()
    while rest:
        row, end = decoder.raw_decode(rest)
        rows.append(row)
        rest = rest[end:].strip()
    write_lines(tmp_path / "train.jsonl", rows)
    talks = read_source(tmp_path / "train.json", "train", "llava_json")
    messages_read = read_source(tmp_path / "train.jsonl", "train", "messages_jsonl")
    assert not talks.ledger.rejected and not messages_read.ledger.rejected
    assert [len(example.turns) for example in (*talks.examples, *messages_read.examples)] == [2, 2, 3, 2]
