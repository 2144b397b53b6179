"""Parquet: pictures inside the file, whole or not at all."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.data.sources import read_source

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")


def encoded(value: int) -> bytes:
    """A small picture of one colour."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, content: dict[str, list[Any]], metadata: dict[str, Any] | None = None) -> Path:
    """Write a file, with Hugging Face's description of its columns where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(content)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_bytes_and_class_names(tmp_path: Path) -> None:
    """Guards against class numbers where names are stored, and pictures that are exchanged or decoded early."""
    content = {"image": [encoded(n) for n in range(5)], "label": [0, 1, 1, 0, 7]}
    file = save(tmp_path / "train.parquet", content, {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}})
    data = read_source(file, "train")
    assert [one.label for one in data.examples] == ["cat", "dog", "dog", "cat"]
    assert data.ledger.counts() == {"no_text": 1}
    assert [int(one.inputs["image"].load()[0, 0, 0]) for one in data.examples] == [0, 1, 2, 3]
    assert data.examples[0].inputs["image"].load().shape == (9, 8, 3)


def test_rows_of_one_picture_come_together(tmp_path: Path) -> None:
    """Guards against the questions of one picture in two splits, or its bytes kept once a row."""
    rows = [(n // 3, f"q{n}") for n in range(120)]
    content = {
        "img": [{"bytes": encoded(n), "path": None} for n, _ in rows],
        "question": [q for _, q in rows],
        "answer": ["yes"] * 120,
        "question_id": [float(n) for n in range(120)],
    }
    file = save(tmp_path / "all.parquet", content)
    parts = {split: read_source(file, split) for split in ("train", "val", "test")}
    seen = [one.inputs["image"].content_key() for part in parts.values() for one in part.examples]
    assert len(seen) == len(set(seen)) == 40
    assert all(len(one.questions) == 3 for part in parts.values() for one in part.examples)


def test_bad_rows_are_told_with_their_number(tmp_path: Path) -> None:
    """Guards against a row without a picture that takes its neighbours with it."""
    pictures = [
        {"bytes": encoded(1), "path": "a.png"}, {"bytes": None, "path": None}, {"bytes": b"", "path": "c.png"}, None,
        {"bytes": b"no picture", "path": "e.png"}, {"bytes": None, "path": "../../etc/passwd"},
    ]  # fmt: skip
    file = save(tmp_path / "train.parquet", {"image": pictures, "caption": ["one", "two", "three", "4", "5", "6"]})
    data = read_source(file, "train")
    assert [one.captions[0].text for one in data.examples] == ["one", "5"]
    rejected = [(entry.row, entry.code) for entry in data.ledger.entries if entry.kind == "rejected"]
    assert sorted(rejected) == [(2, "no_image"), (3, "no_image"), (4, "no_image"), (6, "path_escape")]
    with pytest.raises(InputError, match=r"train.parquet:5: the content is no image"):
        data.examples[1].inputs["image"].load()


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "middle"])
def test_damaged_files_are_refused_whole(harm: str, tmp_path: Path) -> None:
    """Guards against the first rows of a file whose rest cannot be read."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 5000), dtype=np.uint8)
    file = save(tmp_path / "train.parquet", {"image": [row.tobytes() for row in noise], "caption": ["x"] * 8})
    content = bytearray(file.read_bytes())
    if harm == "middle":
        content[len(content) // 2 : len(content) // 2 + 4000] = b"\xff" * 4000
        content[24000:34000] = b"\0" * 10000
    file.write_bytes({"cut": content[:-20], "empty": b"", "text": b"hello\n" * 9}.get(harm, content))
    with pytest.raises(InputError, match=r"train\.parquet cannot be read"):
        read_source(file, "train")


def test_unclear_columns(tmp_path: Path) -> None:
    """Guards against guessing which of two columns of bytes is the picture."""
    file = save(tmp_path / "train.parquet", {"left": [b"x"], "right": [b"y"], "caption": ["z"]})
    with pytest.raises(InputError, match="no column that names an image"):
        read_source(file, "train")
    file = save(tmp_path / "more/train.parquet", {"url": ["http://x/1.jpg"], "caption": ["z"]})
    with pytest.raises(InputError, match="nothing is downloaded"):
        read_source(file, "train")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError, and against a folder that is called unknown because a package is missing."""
    save(tmp_path / "train.parquet", {"image": [encoded(1)], "caption": ["x"]})
    inner = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return inner(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[parquet\]'"):
        read_source(tmp_path, "train")


def test_the_temporary_file_goes_with_the_last_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a copy of the data set left in the temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    file = save(tmp_path / "train.parquet", {"image": [encoded(n) for n in range(4)], "caption": ["x"] * 4})
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    data = read_source(file, "train")
    assert not list((tmp_path / "temporary").iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before + 1
    del data
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
