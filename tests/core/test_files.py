"""Files are whole or absent, whenever the process dies; and one run holds a folder."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chiasm.core import files
from chiasm.core.errors import InputError
from chiasm.core.files import (
    cache_root,
    folder_lock,
    read_json,
    sha256_bytes,
    sha256_file,
    sweep_partial,
    whole_folder,
    write_bytes,
    write_json,
)

OLD, NEW = b"old" * 1000, b"NEW!" * 2000
ATOMIC = "files.write_bytes(path, new)"
NAIVE = """
files._crash_point()
with open(path, "wb") as file:
    files._crash_point()
    file.write(new[: len(new) // 2])
    file.flush()
    files._crash_point()
    file.write(new[len(new) // 2 :])
files._crash_point()
"""
"""The null control: what a writer looks like that nobody thought about. It dies at the same kind of point."""


def contents_after_crashes(path: Path, writer: str) -> list[bytes]:
    """Run `writer` in a child that dies at its 1st, 2nd, ... crash point; what `path` holds after each death."""
    found = []
    for countdown in range(20):
        path.write_bytes(OLD)
        code = (
            "import sys; from pathlib import Path; from chiasm.core import files\n"
            f"path, new = Path(sys.argv[1]), {NEW[:4]!r} * 2000\n"
            f"files._crash_countdown = {countdown}\n{writer}"
        )
        child = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True)
        found.append(path.read_bytes())
        if child.returncode == 0:
            return found
        assert child.returncode == 137, child.stderr
    raise AssertionError("the writer never finished")


def test_a_killed_writer_leaves_the_old_or_the_new_bytes(tmp_path: Path) -> None:
    """Guards against a torn file: both states are seen, first old, then new, and nothing in between."""
    found = contents_after_crashes(tmp_path / "file", ATOMIC)
    assert len(found) == 6, "five crash points and the whole write"
    number_new = found.count(NEW)
    assert found == [OLD] * (6 - number_new) + [NEW] * number_new
    assert 2 <= number_new <= 5


def test_the_same_kill_tears_a_naive_writer(tmp_path: Path) -> None:
    """The null control: if this passes whole, the test above proves nothing."""
    found = contents_after_crashes(tmp_path / "file", NAIVE)
    assert b"" in found and NEW[: len(NEW) // 2] in found


def test_what_a_killed_writer_leaves_is_swept(tmp_path: Path) -> None:
    """Guards against a folder that fills with half files, and against a sweep that takes a user's file along."""
    contents_after_crashes(tmp_path / "file", ATOMIC)
    (tmp_path / "kept.partial").write_bytes(b"the user's")
    leftovers = set(tmp_path.iterdir()) - {tmp_path / "file", tmp_path / "kept.partial"}
    assert leftovers, "a kill between writing and renaming leaves its temporary file"
    sweep_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept.partial"]


def test_data_and_name_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a rename before the data is on disk, or never made durable: a power cut would tear the file."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        done.append("folder" if is_folder else f"data of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent, "a rename between file systems is no rename"
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    write_bytes(tmp_path / "new" / "file", NEW)
    assert done == [f"data of {len(NEW)}", "rename", "folder"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a full disk that costs the old file, or leaves a temporary one."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(OLD)
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "file", NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    """Guards against NaN in a file that other programs then cannot read; the old file stays."""
    write_json(tmp_path / "file", {"text": "猫", "number": 1.5})
    assert "猫" in (tmp_path / "file").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file", {"number": float("nan")})
    assert read_json(tmp_path / "file", "a test") == {"text": "猫", "number": 1.5}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1} x', b"[" * 100_000])
def test_unreadable_json_is_an_error_with_its_name(tmp_path: Path, content: bytes) -> None:
    """Guards against a decoder's traceback for a damaged file."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="the run's config"):
        read_json(tmp_path / "file", "the run's config")


def test_absent_json_is_an_error_with_its_name(tmp_path: Path) -> None:
    """Guards against FileNotFoundError without a word on what the file is for."""
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "absent", "the run's config")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    """A stated value (FIPS 180-2, appendix B.1): SHA-256 of "abc"."""
    stated = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "file") == stated


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    """Guards against two runs that write into one folder, and against a lock that outlives its process."""
    code = (
        "import sys; from pathlib import Path; from chiasm.core.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): pass"
    )

    def enter_elsewhere() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)

    with folder_lock(tmp_path):
        refused = enter_elsewhere()
        assert refused.returncode != 0 and f"in use by process {os.getpid()}" in refused.stderr
    assert enter_elsewhere().returncode == 0
    with folder_lock(tmp_path):
        pass


def test_the_cache_is_where_it_was_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a full home folder after CHIASM_CACHE was set, and a cache that does not follow XDG."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "named"))
    assert cache_root() == tmp_path / "named"
    monkeypatch.delenv("CHIASM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "chiasm"


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    """Guards against half a model in the cache after an error, and against a partial folder that stays."""

    def fails_half_way() -> None:
        with whole_folder(tmp_path / "model") as place:
            (place / "half").write_text("a")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        fails_half_way()
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "model") as place:
        (place / "deeper").mkdir()
        (place / "deeper" / "file").write_text("a")
        assert not (tmp_path / "model").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "deeper" / "file").read_text() == "a"


def test_a_second_writer_waits_where_told_to(tmp_path: Path) -> None:
    """Guards against two processes that fill one cache folder at once, and a reader turned away for seconds."""
    order: list[str] = []

    def second() -> None:
        with folder_lock(tmp_path, waits=True):
            order.append("second")

    with folder_lock(tmp_path, waits=True):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.1)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
