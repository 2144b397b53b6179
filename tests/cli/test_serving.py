"""The verbs classify and serve: what they print, and what they refuse before anything is loaded."""

import json
from pathlib import Path

import pytest
from command import Shell, assert_refused
from PIL import Image

from chiasm.serve.engine import load


def test_classify(chiasm: Shell, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against labels that are cut wrongly, and a file that says something else than the screen."""
    other = tmp_path / "other.png"
    Image.effect_noise((40, 60), 60).convert("RGB").save(other)
    example, numbers = tiny_run / "example.png", tmp_path / "numbers.json"
    said = chiasm("classify", tiny_run, example, "--labels", "red circle, 蓝色方形，green triangle", "--json", numbers)
    assert said.code == 0, said.err
    (row,) = json.loads(numbers.read_text(encoding="utf-8"))
    (expected,) = load(tiny_run).classify([example], ["red circle", "蓝色方形", "green triangle"])
    assert row["label"] == expected.answer and row["labels"] == expected.evidence["labels"]
    assert [line.split("%  ")[1] for line in said.out.splitlines()] == [one["label"] for one in row["labels"]]
    both = chiasm("classify", tiny_run, example, other, "--labels", "a,b", "--prompt", "a {label}")
    answers = [line for line in both.out.splitlines() if "%" in line]
    assert len(answers) == 2 and str(other) in answers[1]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("classify", "RUN", "PICTURE", "--labels", "a,a"), "the labels a, a"),
        (("classify", "RUN", "PICTURE", "--labels", "a"), "two or more different labels"),
        (("classify", "RUN", "PICTURE", "--labels", "a,b", "--prompt", "a photo"), "{label}"),
        (("serve", "RUN", "--host", "0.0.0.0"), "without a token"),  # noqa: S104
        (("serve", "RUN", "--token-file", "nowhere"), "cannot be read"),
        (("serve", "nowhere"), "nowhere"),
        (("serve", "RUN", "--index", "nowhere"), "nowhere"),
    ],
)
def test_wrong_words_are_refused(chiasm: Shell, tiny_run: Path, words: tuple[str, ...], given: str) -> None:
    """Guards against a server that opens to everybody, and a traceback in the place of a sentence."""
    places = {"RUN": tiny_run, "PICTURE": tiny_run / "example.png"}
    assert_refused(chiasm(*(places.get(word, word) for word in words)), given)
