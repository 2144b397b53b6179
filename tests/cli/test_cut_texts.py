"""A text that the model does not read to its end, or not at all, is never passed over in silence."""

import json
from pathlib import Path

import pytest
from command import Shell

LONG = "is there a red circle " * 20 + "?"
SAID = "tokens, of which the model reads the first"


def test_training_and_evaluation_count_the_texts_they_cut(chiasm: Shell, tmp_path: Path) -> None:
    """Guards against a model that never saw the ends of its captions, and says so nowhere."""
    out = tmp_path / "run"
    tiny = ("demo", "--tiny", "--out", out, "--set", "tasks.captioning.weight=0.1", "--set", "decoding.max_words=4")
    said = chiasm(*tiny, "--set", "model.text.max_tokens=6")
    assert said.code == 0
    for split in ("train", "val", "test"):
        (line,) = [one for one in said.err.splitlines() if one.startswith(f"{split}: ") and "are longer than 4" in one]
        count, total = (int(word.replace(",", "")) for word in line.split(" ")[1:4:2])
        assert 0 < count <= total
    notes = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert notes[-1]["notes"]["text_cut"] == len(notes) - 1 and notes[-1]["rejected"] == 0
    numbers = tmp_path / "numbers.json"
    said = chiasm("evaluate", out, "--split", "val", "--json", numbers)
    assert "val: " in said.err and "are read without their ends" in said.err
    assert "text_cut" in json.loads(numbers.read_text())["ledger"]


def test_nothing_is_said_where_nothing_is_cut(chiasm: Shell, tiny_run: Path) -> None:
    """Guards against a warning that everybody learns to ignore."""
    said = chiasm("evaluate", tiny_run, "--split", "val")
    assert said.code == 0 and "without their ends" not in said.err
    said = chiasm("ask", tiny_run, tiny_run / "example.png", "is there a red circle?")
    assert said.code == 0 and said.err == ""


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "RUN", "RUN/example.png", LONG),
        ("match", "RUN", "RUN/example.png", "a circle", LONG),
        ("search", "RUN", "RUN/example.png", LONG),
    ],
)
def test_a_question_that_is_cut_is_said_to_be(chiasm: Shell, tiny_run: Path, words: tuple[str, ...]) -> None:
    """Guards against an answer to the first half of a question."""
    said = chiasm(*(word.replace("RUN", str(tiny_run)) for word in words))
    assert said.code == 0 and said.out.strip()
    assert said.err.count(SAID) == 1 and "is there a red circle is there" in said.err


def test_unknown_words_are_said_to_be(chiasm: Shell, tiny_run: Path) -> None:
    """Guards against an answer to a question in a script that the model cannot read."""
    said = chiasm("ask", tiny_run, tiny_run / "example.png", "есть ли красный круг?")
    assert said.code == 0 and "tokens are unknown to the model" in said.err
    said = chiasm("classify", tiny_run, tiny_run / "example.png", "--labels", "circle,круг")
    assert said.code == 0 and said.err.count("unknown to the model") == 1
