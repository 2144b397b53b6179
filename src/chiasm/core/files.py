"""Files that are either whole or absent: the one atomic write, content hashes, JSON, a folder's lock, the cache."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError

_crash_countdown: int | None = None
"""Tests set this to n: the process dies at the n-th crash point, as a power switch would (`os._exit`)."""


def _crash_point() -> None:
    global _crash_countdown
    if _crash_countdown is not None:
        _crash_countdown -= 1
        if _crash_countdown < 0:
            os._exit(137)


def cache_root() -> Path:
    """`CHIASM_CACHE`, or `chiasm` in the user's cache folder."""
    named = os.environ.get("CHIASM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chiasm"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old or its new bytes, whenever the process dies.

    The order is what makes it hold: a temporary file in the same directory, fsync of the data, rename,
    fsync of the directory (safetensors' own `save_file` skips both fsyncs).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _crash_point()
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            _crash_point()
            file.flush()
            os.fsync(file.fileno())
        _crash_point()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _crash_point()
    _sync(path.parent)
    _crash_point()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside its place, that takes its name when the block ends well; otherwise nothing is left.

    What was written is synced before the folder gets its name. `folder` must be absent or empty at that moment.
    """
    place = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(place, ignore_errors=True)  # left by a killed process of the same number
    place.mkdir(parents=True)
    try:
        yield place
        for path in sorted(place.rglob("*"), reverse=True):  # a folder after its files
            _sync(path)
        _sync(place)
        _crash_point()
        os.replace(place, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Raise InputError if something stands at a path where a folder is to be made; an empty folder may."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists", "a folder that is empty, or not there yet", "give another --out")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """`whole_folder`, checked before anything is written.

    Raises:
        InputError: something stands there.
    """
    check_new_folder(folder)
    with whole_folder(folder) as place:
        yield place


def write_text(path: Path, content: str) -> None:
    """Atomic `write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def json_bytes(content: Any) -> bytes:
    """Indented JSON in UTF-8; NaN and infinity are refused, because JSON cannot represent them."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    """Atomic write of `json_bytes`."""
    write_bytes(path, json_bytes(content))


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; `what` names it in the error ("the run's config")."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", f"a file with {what}", "check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", f"a JSON file with {what}", "restore or rewrite it") from None


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_partial(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: Path, waits: bool = False) -> Iterator[None]:
    """Hold a folder for this process; a second writer to the same folder is refused (or waits), not interleaved."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{folder} is in use by process {file.read().strip() or 'unknown'}",
                "one writer a folder at a time",
                "wait for it, or give another folder",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
