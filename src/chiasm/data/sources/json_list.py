"""Layout "json_list": a JSON file with a list of rows, such as `[{"image": "1.jpg", "caption": "A dog."}, ...]`.

The keys are those of a table (`records.ROLES`); a caption may be a list. The split is a key, or the file's name
(`train.json`, `val.json`), or is drawn.
"""

import json
import re
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import Source
from chiasm.data.sources.parsing import BadRowError, read_head, read_json_file
from chiasm.data.sources.records import Columns, Reading, choose_split, image_folders, split_in_name

_WHAT = "a list of objects with the keys of a table, such as image and caption"
_START = re.compile(r"\s*\[\s*(?=\{)")


def recognises(path: Path) -> bool:
    """True for such a file, and for a folder that holds one."""
    return bool(_files(path))


def read(path: Path, split: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one. A bad row is reported with its number."""
    files = _files(path)
    if not files:
        raise InputError(f"{path} holds no JSON file with a list of rows", _WHAT, "give the path of the JSON file")
    by_split = {split_in_name(file.stem): file for file in files}
    if len(by_split) < len(files) or (len(files) > 1 and "" in by_split):
        names = ", ".join(file.name for file in files)
        do = f"give one file, such as --set data.path={files[0]}"
        raise InputError(f"{path} holds several lists: {names}", "one, or one named after each split", do)
    name = "" if list(by_split) == [""] else choose_split(split, by_split, path)
    file = by_split[name]
    content = read_json_file(file, _WHAT)
    if not isinstance(content, list):
        raise InputError(f"{file} holds no list", _WHAT, "check the file, or name another format")
    reading = Reading(image_folders(file.parent), tuple(by_split) if name else ())
    known: dict[tuple[str, ...], Columns] = {}
    for number, row in enumerate(content, 1):
        _add(row, Source(str(file), number), name, known, reading)
    if not name:
        reading.set_splits_of_records()
    return reading


def _add(row: Any, source: Source, split: str, known: dict[tuple[str, ...], Columns], reading: Reading) -> None:
    try:
        if not isinstance(row, dict):
            raise BadRowError("json", f"a {type(row).__name__} stands where an object belongs")
        keys = tuple(row)
        if keys not in known:
            known[keys] = Columns(keys, str(source))
        reading.add(known[keys].record(source, row), split)
    except InputError as error:
        reading.reject(source, "columns", error.given)
    except BadRowError as error:
        reading.reject(source, error.code, error.text)


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []
    return [file for file in files if file.suffix.lower() == ".json" and file.is_file() and _begins_with_rows(file)]


def _begins_with_rows(file: Path) -> bool:
    """Whether the first object of a list has keys that can be understood."""
    text = read_head(file)
    start = _START.match(text)
    if start is None:
        return False
    try:
        row, _ = json.JSONDecoder().raw_decode(text, start.end())
        Columns(tuple(row), str(file))
    except (ValueError, RecursionError, InputError):
        return False
    return True
