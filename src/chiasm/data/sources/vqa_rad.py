"""Layout "vqa_rad": the public JSON of VQA-RAD (Lau et al. 2018), a list of questions about radiology images.

The release marks its test questions in `phrase_type` ("test_freeform", "test_para"); all others are for training.
Many images occur in both splits, with different questions.
"""

from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, has_keys, read_head, read_json_file
from chiasm.data.sources.records import NamedImage, Reading, Record, make_question, read_entries, text_of

_WHAT = "VQA-RAD's public JSON: a list of objects with qid, image_name, question, answer and phrase_type"

KEYS = ("image_name", "phrase_type", "qid")
"""Keys of its objects."""


def recognises(path: Path) -> bool:
    """True for the file, and for a folder that holds it."""
    return _file(path) is not None


def read(path: Path, split: str) -> Reading:
    """Read every question; an entry that lacks its parts is rejected by its number in the list."""
    file = _file(path)
    if file is None:
        raise InputError(f"{path} holds no VQA-RAD file", _WHAT, "give the path of the JSON file")
    content = read_json_file(file, _WHAT)
    if not isinstance(content, list):
        raise InputError(f"{file} holds no list", _WHAT, "check the file, or name another format")
    return read_entries(file, content, _record)


def _file(path: Path) -> Path | None:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    return next((file for file in files if has_keys(file, KEYS) and read_head(file).lstrip().startswith("[")), None)


def _record(entry: Any, source: Source) -> Record:
    if not isinstance(entry, dict):
        raise BadRowError("entry", "the entry is no object")
    name = text_of(entry.get("image_name"), "image").strip()
    if not name:
        raise BadRowError("no_image", "the entry names no image")
    kind = text_of(entry.get("answer_type"), "kind").strip()
    phrase = text_of(entry.get("phrase_type"), "phrase_type").strip()
    return Record(
        source,
        (NamedImage(name),),
        id=text_of(entry.get("qid"), "id").strip(),
        questions=(make_question(entry.get("question"), entry.get("answer"), kind),),
        split="test" if phrase.startswith("test") else "train",
    )
