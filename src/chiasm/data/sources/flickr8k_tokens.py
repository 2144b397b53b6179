"""Layout "flickr8k_tokens": `NAME#NUMBER<TAB>caption` lines, and `*.trainImages.txt` lists of the splits.

This is how Flickr8k (Hodosh et al. 2013) and Flickr30k were given out. Images that stand in no list form the split
"unassigned"; without any list there is no split information.
"""

import re
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Caption, Source
from chiasm.data.image import SUFFIXES
from chiasm.data.script import language_of
from chiasm.data.sources.parsing import Rejected, read_lines
from chiasm.data.sources.records import UNASSIGNED, NamedImage, Reading, Record, image_folders

_PLACES = ("", "original/Flickr8k_text", "Flickr8k_text", "text", "original", "annotations")
_LINE = re.compile(r"(.+)#(\d+)\t(.*)")
_LIST = re.compile(r"(train|dev|val|test)Images\.txt$")


def recognises(path: Path) -> bool:
    """True for a file `*.token.txt` or one that begins with such a line, and for a folder that holds one."""
    return _token_file(path) is not None


def read(path: Path, split: str) -> Reading:
    """Read all captions and the lists; the first captions of the file are the first of their example."""
    file = _token_file(path)
    if file is None:
        raise InputError(f"{path} holds no token file", "a file such as Flickr8k.token.txt", "check the path")
    reading = Reading(image_folders(file.parent))
    if path.is_dir() and path.absolute() != file.parent.absolute():
        reading.folders += image_folders(path)[1:]
    captions, first_at = _read_captions(file, reading)
    split_of, listed_at = _read_lists(file.parent, reading)
    rest = UNASSIGNED if split_of else ""
    for name, texts in captions.items():
        reading.records.append(
            Record(first_at[name], (NamedImage(name),), captions=tuple(texts), split=split_of.get(name, rest))
        )
    for name in split_of:
        if name not in captions:
            reading.records.append(Record(listed_at[name], (NamedImage(name),), split=split_of[name]))
    reading.set_splits_of_records()
    return reading


def _token_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.name.endswith((".token.txt", ".token")) or _has_token_lines(path) else None
    for place in _PLACES:
        files = [f for pattern in ("*.token.txt", "*.token", "*.txt") for f in sorted((path / place).glob(pattern))]
        plain = [f for f in files if f.is_file() and "lemma" not in f.name]
        plain = [f for f in plain if f.name.endswith((".token.txt", ".token")) or _has_token_lines(f)]
        if plain:
            return plain[0]
    return None


def _has_token_lines(file: Path) -> bool:
    """Whether a text file of another name begins as a token file does."""
    if file.suffix.lower() not in (".txt", ".tsv"):
        return False
    first = next(read_lines(file), None)
    match = _LINE.fullmatch(first[1]) if first is not None and isinstance(first[1], str) else None
    return match is not None and Path(match[1]).suffix.lower() in SUFFIXES


def _read_captions(file: Path, reading: Reading) -> tuple[dict[str, list[Caption]], dict[str, Source]]:
    captions: dict[str, list[Caption]] = {}
    first_at: dict[str, Source] = {}
    seen: set[tuple[str, str]] = set()
    for source, line in read_lines(file):
        if isinstance(line, Rejected):
            reading.rejected.append(line)
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            reading.reject(source, "token_line", "the line is not NAME#NUMBER<TAB>caption")
            continue
        name, number, text = match.groups()
        if (name, number) in seen:
            reading.reject(source, "duplicate_id", f"{name}#{number} stands twice")
            continue
        seen.add((name, number))
        captions.setdefault(name, []).append(Caption(text, language_of(text)))
        first_at.setdefault(name, source)
    return captions, first_at


def _read_lists(folder: Path, reading: Reading) -> tuple[dict[str, str], dict[str, Source]]:
    """Image name -> split, and where it is listed; an image in two lists stays with the first."""
    split_of: dict[str, str] = {}
    listed_at: dict[str, Source] = {}
    for file in sorted(folder.glob("*Images.txt"), key=lambda f: ("train" not in f.name, f.name)):
        match = _LIST.search(file.name)
        if match is None:
            continue
        split = "val" if match[1] == "dev" else match[1]
        for source, line in read_lines(file):
            if isinstance(line, Rejected):
                reading.rejected.append(line)
            elif split_of.setdefault(line.strip(), split) != split:
                reading.reject(
                    source, "split_conflict", f"{line.strip()} is in the list of {split_of[line.strip()]} too"
                )
            else:
                listed_at.setdefault(line.strip(), source)
    return split_of, listed_at
