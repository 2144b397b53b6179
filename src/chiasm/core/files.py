"""Files that are either whole or absent: the one atomic write, content hashes, JSON, a folder's lock."""

import fcntl
import hashlib
import json
import os
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
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    _crash_point()


def write_text(path: Path, content: str) -> None:
    """Atomic `write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Atomic write of indented JSON; NaN and infinity are refused, because JSON cannot represent them."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; a second writer to the same folder is refused, not interleaved."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
