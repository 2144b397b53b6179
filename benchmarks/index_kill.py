"""Index writers killed with SIGKILL: `python benchmarks/index_kill.py [KILLS]` (default 100).

A forked child writes parts of 16 made-up pictures and deletes some of the part before, and says each part to its parent
only when `Store.apply` has returned. The parent kills it at a random moment, opens what is left and counts: every
acknowledged part whole and right, every acknowledged deletion gone, the unacknowledged part there whole or not at all.
The null control is a writer that keeps vectors and names in two files that it writes anew each time, as simple indexes
do; the same counting must find it broken. Exits with 1 where the index lost anything, or the control did not.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from chiasm.core.errors import ChiasmError
from chiasm.serve.index.header import FORMAT, Header
from chiasm.serve.index.sqlite import SqliteStore
from chiasm.serve.index.store import Change, Entry

DIM, PART, FORGOTTEN = 64, 16, 4
KILLS = 100


def vector_of(path: str) -> np.ndarray:
    """The vector that a made-up picture must have."""
    drawn = np.random.default_rng(int(path.split("-")[1])).standard_normal(DIM).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def paths_of(part: int) -> list[str]:
    """The pictures of a part."""
    return [f"/picture-{part * PART + number}" for number in range(PART)]


def forgotten_by(part: int) -> list[str]:
    """What is deleted together with the writing of a part."""
    return paths_of(part - 1)[:FORGOTTEN] if part else []


class Real:
    """The index."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "index", makes=True)
        self.store.write_header(Header(FORMAT, "", str(DIM), "made up", "made up", "float32"))

    def write(self, part: int) -> None:
        """One transaction."""
        put = [Entry(path, path, 1, "1", vector_of(path)) for path in paths_of(part)]
        self.store.apply(Change(put=put, remove=forgotten_by(part)))

    def read(self) -> dict[str, np.ndarray]:
        """Path -> vector, as a search would see it."""
        assert not self.store.damage(), "the database's own check"
        matrix = self.store.matrix()
        items = self.store.items(matrix.numbers.tolist())
        assert len(items) == len(matrix.numbers) == self.store.count(), "as many vectors as items"
        return {items[int(n)].path: row for n, row in zip(matrix.numbers, matrix.vectors, strict=True)}


class Naive:
    """The null control: two files, written in place."""

    def __init__(self, folder: Path) -> None:
        self.names, self.vectors = folder / "names.json", folder / "vectors.npy"
        self.kept = self.read() if self.names.exists() else {}

    def write(self, part: int) -> None:
        """Both files anew."""
        self.kept.update({path: vector_of(path) for path in paths_of(part)})
        for path in forgotten_by(part):
            self.kept.pop(path, None)
        self.names.write_text(json.dumps(list(self.kept)))
        np.save(self.vectors, np.stack(list(self.kept.values())))

    def read(self) -> dict[str, np.ndarray]:
        """Path -> vector."""
        names, rows = json.loads(self.names.read_text()), np.load(self.vectors)
        assert len(names) == len(rows), "as many vectors as names"
        return dict(zip(names, rows, strict=True))


def killed(kind: Callable[[Path], Real | Naive], folder: Path, first: int, after_s: float) -> list[int]:
    """Start a writer at part `first`, kill it after its first part and so many seconds, and return what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        writer = kind(folder)
        for part in range(first, first + 1_000_000):
            writer.write(part)
            os.write(writing, f"{part}\n".encode())
        os._exit(1)
    os.close(writing)
    said = os.read(reading, 64)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(reading, 65_536):
        said += more
    os.close(reading)
    return [int(line) for line in said.split()]


def wrong(found: dict[str, np.ndarray], last: int) -> str:
    """What is wrong with an index of which all parts up to `last` were acknowledged; "" where nothing is."""
    expected = {path for part in range(last + 1) for path in paths_of(part)}
    expected -= {path for part in range(last + 1) for path in forgotten_by(part)}
    ahead = (expected - set(forgotten_by(last + 1))) | set(paths_of(last + 1))
    if set(found) not in (expected, ahead):
        return f"{len(expected - set(found))} lost, {len(set(found) - expected)} too many"
    torn = [path for path, row in found.items() if not np.array_equal(row, vector_of(path))]
    return f"{len(torn)} wrong vectors" if torn else ""


def trial(kind: Callable[[Path], Real | Naive], kills: int, seed: int = 0) -> tuple[int, list[str]]:
    """Kill so often; return how many parts were acknowledged, and what was found wrong. A broken index begins anew."""
    draws, acknowledged, problems = random.Random(seed), 0, list[str]()
    with tempfile.TemporaryDirectory() as place:
        folder, first = Path(place) / "0", 0
        folder.mkdir()
        for number in range(kills):
            said = killed(kind, folder, first, draws.uniform(0, 0.03))
            acknowledged += len(said)
            try:
                found = kind(folder).read()
                problem = wrong(found, said[-1])
                first = said[-1] + 1 + (set(paths_of(said[-1] + 1)) <= set(found))
            except (ChiasmError, ValueError, OSError, EOFError, AssertionError) as error:
                problem = f"cannot be opened: {error}"
            if problem:
                problems.append(f"kill {number}: {problem}")
            if problem or first > 400:
                folder, first = Path(place) / str(number + 1), 0
                folder.mkdir()
    return acknowledged, problems


def main() -> None:
    """Both trials, and the verdict."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    real_said, real = trial(Real, kills)
    naive_said, naive = trial(Naive, kills)
    print(f"index: {kills} kills, {real_said} parts of {PART} acknowledged, {len(real)} times something lost or torn")
    print(f"null control: {kills} kills, {naive_said} parts acknowledged, {len(naive)} times something lost or torn")
    print("\n".join(real[:5]))
    sys.exit(1 if real or len(naive) * 4 < kills else 0)


if __name__ == "__main__":
    main()
