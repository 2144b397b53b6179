"""What a person can type to make rejected rows usable: where the images lie, and what a file's encoding is."""

import os
import shlex
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from chiasm.data.ledger import Entry
from chiasm.data.sources.walking import subfolders

_NAMES_TRIED = 50
_FOLDERS_TRIED = 500
_HEAD_BYTES = 2**20


def advice_on_missing(names: Sequence[str], path: Path) -> str:
    """Say which folder holds images that were not found; "" where none near the data does.

    Args:
        names: as the rows write them.
        path: the data, a folder or file; looked through are its folders, and those beside it.
    """
    if not names:
        return ""
    tried = list(dict.fromkeys(names))[:_NAMES_TRIED]
    absolute = [name for name in tried if os.path.isabs(name) and os.path.isfile(name)]
    if absolute:
        folder = os.path.commonpath([os.path.dirname(name) for name in absolute])
        return f"{_images(folder)} ({len(absolute)} of {len(tried)} missing images lie there)"
    base = Path(os.path.abspath(path if path.is_dir() else path.parent))
    folders = list(_near(base))
    relative = [name for name in tried if not os.path.isabs(name)]
    if found := _best(folders, relative):
        return f"{_images(found[0])} ({found[1]} of {len(tried)} missing images lie there)"
    if found := _best(folders, [os.path.basename(name.replace("\\", "/")) for name in tried]):
        name = os.path.basename(tried[0].replace("\\", "/"))
        given = f"write the images' names without their folders ({name} for {tried[0][:200]})"
        return f"{given}, and add {_images(found[0])}"
    return ""


def advice_on_encoding(entries: Iterable[Entry]) -> str:
    """Say how a file that is not UTF-8 becomes UTF-8; "" where no line was rejected for that."""
    files = Counter(entry.file for entry in entries if entry.kind == "rejected" and entry.code == "encoding")
    return next((conversion(Path(file)) for file, _ in files.most_common(1) if os.path.isfile(file)), "")


def conversion(file: Path) -> str:
    """The command that turns a text file into UTF-8, from the encoding that its first bytes look like."""
    with open(file, "rb") as opened:
        head = opened.read(_HEAD_BYTES)
    encoding = "UTF-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else _eight_bit(head)
    new = file.with_name(f"{file.stem}-utf8{file.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(file))} > {shlex.quote(str(new))}"


def _eight_bit(head: bytes) -> str:
    """GB18030 where the bytes decode to Chinese in it, else the Windows code page of Western Europe."""
    try:
        text = head[: head.rfind(b"\n") + 1 or None].decode("gb18030")
    except UnicodeDecodeError:
        return "WINDOWS-1252"
    foreign = [letter for letter in text if not letter.isascii()]
    chinese = sum("\u4e00" <= letter <= "\u9fff" or "\u3000" <= letter <= "\u303f" for letter in foreign)
    return "GB18030" if foreign and chinese * 2 > len(foreign) else "WINDOWS-1252"


def _images(folder: Path | str) -> str:
    return f"--set data.images={shlex.quote(str(folder))}"


def _best(folders: Sequence[Path], names: Sequence[str]) -> tuple[Path, int] | None:
    """The folder that holds most of the names, and how many; the nearest of several."""
    counts = [(sum(_is_file(folder, name) for name in names), folder) for folder in folders]
    count, folder = max(counts, key=lambda one: one[0], default=(0, Path()))
    return (folder, count) if count else None


def _is_file(folder: Path, name: str) -> bool:
    try:
        return os.path.isfile(folder / name)
    except (OSError, ValueError):  # a name may be too long, or hold a byte that no path has
        return False


def _near(base: Path) -> Iterator[Path]:
    """Folders below the data, then those beside it and below these, nearest first, at most `_FOLDERS_TRIED`."""
    waiting = deque([(base, 0), (base.parent, 1)])
    seen: set[str] = set()
    while waiting and len(seen) < _FOLDERS_TRIED:
        folder, depth = waiting.popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        if depth < 3:
            try:
                waiting += [(one, depth + 1) for one in subfolders(folder)]
            except OSError:
                continue
