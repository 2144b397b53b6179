"""Files are found by the names that rows give them, and never outside the data."""

import os
from pathlib import Path

import pytest

from chiasm.data.sources.image_finder import ImageFinder
from chiasm.data.sources.parsing import BadRowError


def test_a_name_is_found_as_written_or_where_one_file_alone_is_alike(tmp_path: Path) -> None:
    """Guards against a row that loses its image by a capital letter, and against a guess between two."""
    for name in ("a.jpg", "B.JPG", "c.png", "c.jpg"):
        (tmp_path / name).touch()
    finder = ImageFinder([tmp_path])
    assert finder.find("a.jpg") == finder.find("A.jpg") == finder.find("a") == str(tmp_path / "a.jpg")
    assert finder.find("b.jpg") == str(tmp_path / "B.JPG")
    with pytest.raises(BadRowError) as caught:
        finder.find("c")
    assert caught.value.code == "missing_image"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("https://example.org/a.jpg", "address"),
        ("../secret.jpg", "path_escape"),
        ("/etc/hostname", "path_escape"),
        ("data:text/plain,x", "path_escape"),
        ("a\0.jpg", "path_escape"),
        ("b.jpg", "missing_image"),
        ("pipe.jpg", "not_regular"),
    ],
)
def test_what_is_not_an_image_of_the_data_is_refused(tmp_path: Path, name: str, code: str) -> None:
    """Guards against a file outside the data that is read because a row names it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(BadRowError) as caught:
        ImageFinder([folder]).find(name)
    assert caught.value.code == code


def test_images_of_another_split_are_not_looked_into(tmp_path: Path) -> None:
    """Guards against `1.jpg` of validation that is taken from training."""
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    (tmp_path / "train" / "1.jpg").touch()
    finder = ImageFinder([tmp_path / "train", tmp_path / "val"])
    assert finder.find("1.jpg", "training") == str(tmp_path / "train" / "1.jpg")
    with pytest.raises(BadRowError):
        finder.find("1.jpg", "val")
