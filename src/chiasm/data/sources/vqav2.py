"""Layout "vqav2": a questions file and an annotations file for each split (Goyal et al. 2017).

An image id becomes a file name by COCO's rule (`COCO_val2014_000000000042.jpg`, `000000000042.jpg`, `42.jpg`), or by
a file `image_ids.json` (file name -> id) beside the questions.
"""

import re
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, has_keys, read_json_file
from chiasm.data.sources.records import (
    NamedImage,
    Reading,
    Record,
    choose_split,
    image_folders,
    make_question,
    split_in_name,
)

_WHAT = "VQAv2's pair of files: questions (image_id, question_id, question), annotations (question_id, answers)"
_MAPPING = "image_ids.json"
KEYS = ("questions", "question_id")
"""Keys that a questions file has."""


def recognises(path: Path) -> bool:
    """True for a questions file or its annotations file, and for a folder that holds them."""
    return bool(_question_files(path))


def read(path: Path, split: str) -> Reading:
    """Read the wanted split's pair; a question without an annotation is rejected by its number in the list."""
    files = _question_files(path)
    if not files:
        raise InputError(f"{path} holds no VQAv2 questions", _WHAT, "give the folder with both files")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files):
        names = ", ".join(file.name for file in files)
        raise InputError(f"{path} holds several question files for one split: {names}", "one a split", "give one file")
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    file = by_split[name]
    questions = _entries(file, "questions")
    pair = _annotation_file(file)
    answers = {e["question_id"]: e for e in _entries(pair, "annotations") if _has_id(e)}
    reading = Reading(image_folders(file.parent), tuple(by_split) if name else ())
    file_names = _FileNames(file, reading.folders)
    for number, entry in enumerate(questions, 1):
        source = Source(str(file), number)
        try:
            reading.records.append(_record(entry, answers, source, name, file_names))
        except BadRowError as error:
            reading.reject(source, error.code, error.text)
    return reading


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("question_id"), int | str)


def _question_files(path: Path) -> list[Path]:
    if path.is_file():
        pattern = re.sub("annotations", "questions", path.name)
        files = [path] if pattern == path.name else _beside(path, "annotations", "questions")
    else:
        files = sorted(path.glob("*uestions*.json"))
    return [file for file in files if has_keys(file, KEYS)]


def _beside(file: Path, word: str, other: str) -> list[Path]:
    """Files of the other half with the same name but for the word; "OpenEnded_" stands in the questions' name only."""

    def plain(name: str) -> str:
        return re.sub("OpenEnded_|MultipleChoice_", "", name).replace(word, other)

    return [f for f in sorted(file.parent.glob(f"*{other}*.json")) if plain(f.name) == plain(file.name)]


def _annotation_file(questions: Path) -> Path:
    found = _beside(questions, "questions", "annotations")
    if len(found) != 1:
        given = f"{questions} has {len(found)} annotation files beside it"
        raise InputError(given, _WHAT, "put the split's annotations file into the same folder")
    return found[0]


def _entries(file: Path, key: str) -> list[Any]:
    content = read_json_file(file, _WHAT)
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{file} has no list `{key}`", _WHAT, "check the file, or name another format")
    return entries


class _FileNames:
    """image id -> file name."""

    def __init__(self, questions: Path, folders: list[Path]) -> None:
        mapping = questions.parent / _MAPPING
        what = "an object: file name -> image id"
        content = read_json_file(mapping, what) if mapping.is_file() else {}
        if not isinstance(content, dict) or not all(isinstance(number, int | str) for number in content.values()):
            raise InputError(f"{mapping} is no such object", what, "restore the file, or take it away")
        self._mapped = {number: name for name, number in content.items()}
        subset = re.search(r"(train|val|test)20\d\d", questions.name)
        self._prefix = f"COCO_{subset[0]}_" if subset else ""
        self._present = {name.name for folder in folders for name in folder.iterdir()} if not self._mapped else set()

    def name(self, image_id: Any) -> str:
        if image_id in self._mapped:
            return str(self._mapped[image_id])
        if not isinstance(image_id, int):
            return f"{image_id}.jpg"
        names = [f"{self._prefix}{image_id:012d}.jpg", f"{image_id:012d}.jpg", f"{image_id}.jpg", f"{image_id}.png"]
        return next((name for name in names if name in self._present), names[0])


def _record(entry: Any, answers: dict[Any, Any], source: Source, split: str, file_names: _FileNames) -> Record:
    if not _has_id(entry) or not isinstance(entry.get("image_id"), int | str):
        raise BadRowError("entry", "no object with question_id, image_id and question")
    answer = answers.get(entry["question_id"])
    if answer is None:
        raise BadRowError("no_answer", f"question {entry['question_id']} has no annotation")
    kind = str(answer.get("answer_type") or answer.get("question_type") or "")
    given = answer.get("answers") or answer.get("multiple_choice_answer")
    question = make_question(entry.get("question"), given, kind)
    images = (NamedImage(file_names.name(entry["image_id"])),)
    return Record(source, images, id=str(entry["question_id"]), questions=(question,), split=split)
