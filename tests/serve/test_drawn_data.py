"""Drawn images as a folder of training data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.types import Prediction
from chiasm.data.config import OtherDataConfig
from chiasm.data.files import open_other_files
from chiasm.serve.drawings import Wish
from chiasm.serve.drawn_data import Wanted, read_captions, write_drawn


class Painter:
    """Draws an image whose colour is the place of the letter in the caption, and whose seed is its blue."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at, self.calls = fails_at, list[int]()

    def drawings(self, captions: list[str], wish: Wish) -> list[Prediction]:
        self.calls.append(len(captions))
        if self.fails_at in captions:
            raise InputError("the caption", "another", "change it")
        found = []
        for caption in captions:
            for number in range(wish.n):
                image = np.full((8, 8, 3), (ord(caption[-1]) % 256, len(caption), wish.seed + number), np.uint8)
                found.append(Prediction(caption, 0.5, {"seed": wish.seed + number}, image=image))
        return found


def wanted(count: int) -> list[Wanted]:
    return [Wanted(f"word {chr(65 + n % 26)}{chr(97 + n // 26)}", {"label": f"l{n}"}) for n in range(count)]


def test_the_folder_is_read_as_training_data(tmp_path: Path) -> None:
    done: list[tuple[int, int, str]] = []
    painter, words = Painter(), wanted(70)
    count = write_drawn(painter, words, Wish(n=2, seed=5), tmp_path / "drawn", lambda *one: done.append(one))
    assert count == 140 and painter.calls == [64, 6] and [one[:2] for one in done] == [(64, 70), (70, 70)]
    found, _ = open_other_files("drawn", OtherDataConfig(path=str(tmp_path / "drawn")), (), set())
    said = sorted((one.captions[0].text, one.label) for one in found)
    assert said == sorted((one.caption, one.said["label"]) for one in words for _ in range(2))
    for one in found:
        (red, green, blue), text = one.inputs["image"].load()[0, 0], one.captions[0].text
        assert (red, green) == (ord(text[-1]) % 256, len(text)) and blue in (5, 6)
    rows = [json.loads(line) for line in (tmp_path / "drawn/train/metadata.jsonl").read_text().splitlines()]
    for row in rows:
        with Image.open(tmp_path / "drawn/train" / row["file_name"]) as image:
            assert image.getpixel((0, 0))[2] == row["seed"]  # type: ignore[index]


def test_nothing_is_left_of_a_drawing_that_fails(tmp_path: Path) -> None:
    words = wanted(70)
    with pytest.raises(InputError):
        write_drawn(Painter(words[66].caption), words, Wish(), tmp_path / "drawn", lambda *_: None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="kept exists"):
        write_drawn(Painter(), words, Wish(), tmp_path / "kept", lambda *_: None)
    assert (tmp_path / "kept/mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="0 images of a caption"):
        write_drawn(Painter(), words, Wish(n=0), tmp_path / "none", lambda *_: None)


def test_captions_are_lines_or_rows_with_more(tmp_path: Path) -> None:
    plain, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("a red circle\n\n  左上有圆形  \n", encoding="utf-8")
    assert read_captions(plain) == [Wanted("a red circle", {}), Wanted("左上有圆形", {})]
    rows.write_text('{"caption": "a dog", "label": "dog", "file_name": "x.png"}\n')
    assert read_captions(rows) == [Wanted("a dog", {"label": "dog"})]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"caption": "x"}\n{"text": "y"}\n', "a.jsonl:2: no 'caption'"),
        ("a.jsonl", '{"caption": ""}\n', "a.jsonl:1: no 'caption'"),
        ("a.jsonl", "{\n", "a.jsonl:1"),
        ("a.txt", "\n\n", "has no caption"),
        ("", "", "is no file"),
    ],
)
def test_other_lines_are_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    path = tmp_path / name
    if name:
        path.write_text(content)
    with pytest.raises(InputError, match=says):
        read_captions(path)
