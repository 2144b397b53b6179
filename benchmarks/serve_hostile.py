"""A server under a limit of memory, and a thousand requests that try to fill it.

    python benchmarks/serve_hostile.py RUN [--requests 1000] [--clients 32] [--limit-mib 1024] [--seed 0] [--json FILE]
        [--only NAME ...]

Sends every kind of `hostile.py` in turn from many clients at once, while an honest client asks and checks its answer.
A watchdog reads the resident memory of the server and of all its child processes every 20 ms, and kills the server
where the sum passes the limit with each page counted once (PSS), as a container counts. Prints how often the server
had to be started again (0 is the aim), the greatest sum that was seen (pages that processes share counted for each),
the memory before and after, and what the honest client got.
"""

import argparse
import contextlib
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hostile import KINDS, bomb
from serving import Process, data_uri, pictures_of, served

WATCH_S = 0.02
HONEST_S = 0.25
"""Time between two honest requests."""


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def shared_once_bytes(pid: int) -> int:
    """The same with each page counted once, as a container counts: the sum of proportional sizes, slower to read."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
    return total


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all below it; 0 where it has ended."""
    total = 0
    for one in family(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):
            continue
    return total


class Watchdog(threading.Thread):
    """Kills a server that takes more memory than it may."""

    def __init__(self, process: Process, limit_bytes: int) -> None:
        super().__init__(daemon=True)
        self.process, self.limit_bytes = process, limit_bytes
        self.peak_bytes, self.is_over, self.is_done = 0, False, threading.Event()

    def run(self) -> None:
        """Until the end."""
        while not self.is_done.wait(WATCH_S):
            pid = self.process.popen.pid
            now = resident_bytes(pid)
            self.peak_bytes = max(self.peak_bytes, now)
            if now > self.limit_bytes and not self.is_over and (exact := shared_once_bytes(pid)) > self.limit_bytes:
                self.is_over, self.peak_bytes = True, max(self.peak_bytes, exact)
                self.process.popen.kill()


class Honest(threading.Thread):
    """Asks a good question again and again, as a client would that tries once more after a 503."""

    def __init__(self, process: Process, body: dict[str, Any], path: str) -> None:
        super().__init__(daemon=True)
        self.process, self.content, self.path = process, json.dumps(body).encode(), path
        self.statuses: Counter[str] = Counter()
        self.answers: set[str] = set()
        self.seconds: list[float] = []
        self.is_done = threading.Event()

    def ask(self) -> str:
        """One request: its status, or "broken"."""
        request = urllib.request.Request(
            self.process.address + self.path, self.content, {"Content-Type": "application/json"}
        )
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.answers.add(answer.read().decode())
                said = "200"
        except urllib.error.HTTPError as error:
            error.close()
            said = str(error.code)
        except OSError:
            said = "broken"
        self.seconds.append(time.perf_counter() - start)
        return said

    def run(self) -> None:
        """Until the end."""
        while not self.is_done.wait(HONEST_S):
            self.statuses[self.ask()] += 1


def attack(
    run: Path, options: Sequence[str], count: int, clients: int, limit_bytes: int, seed: int, only: Sequence[str] = ()
) -> dict[str, Any]:
    """All of it; a server that falls over is started again and counted."""
    kinds = [one for one in KINDS if one.__name__ in only or not only]
    shuffled = [kinds[number % len(kinds)] for number in range(count)]
    random.Random(seed).shuffle(shuffled)
    turn = deque(shuffled)
    for kind in ("png grey16", "png rgba", "small"):
        bomb(kind)  # made once, before the clock
    restarts, outcomes = 0, defaultdict[str, Counter[str]](Counter)
    picture = data_uri(pictures_of(run, None, 1)[0])
    started, peak, before, after, honest_seen = time.monotonic(), 0, 0, 0, list[Honest]()
    while turn:
        with served(run, *options) as process:
            watchdog = Watchdog(process, limit_bytes)
            honest = Honest(
                process, {"input": [{"type": "image_url", "image_url": {"url": picture}}]}, "/v1/embeddings"
            )
            assert honest.ask() == "200", "no answer before anything hostile was sent"
            before = before or resident_bytes(process.popen.pid)
            honest_seen.append(honest)
            watchdog.start()
            honest.start()

            def send(kind: Any) -> None:
                try:
                    outcomes[kind.__name__][kind(process)] += 1
                except OSError:
                    outcomes[kind.__name__]["broken"] += 1

            def client() -> None:
                with contextlib.suppress(IndexError):
                    while process.popen.poll() is None:
                        send(turn.popleft())

            with ThreadPoolExecutor(clients) as pool:
                for done in [pool.submit(client) for _ in range(clients)]:
                    done.result()
            honest.is_done.set()
            honest.join()
            if process.popen.poll() is None:
                time.sleep(2)
                assert honest.ask() == "200", "no answer after it"
                after = resident_bytes(process.popen.pid)
            else:
                restarts += 1
            watchdog.is_done.set()
            watchdog.join()
            peak = max(peak, watchdog.peak_bytes)
    seconds = sorted(value for one in honest_seen for value in one.seconds)
    return {
        "requests": count,
        "limit_mib": limit_bytes / 2**20,
        "restarts": restarts,
        "seconds": time.monotonic() - started,
        "before_mib": before / 2**20,
        "peak_mib": peak / 2**20,
        "after_mib": after / 2**20,
        "honest": dict(sum((one.statuses for one in honest_seen), Counter[str]())),
        "honest_answers": len({answer for one in honest_seen for answer in one.answers}),
        "honest_median_s": seconds[len(seconds) // 2],
        "honest_slowest_s": seconds[-1],
        "outcomes": {name: dict(found) for name, found in sorted(outcomes.items())},
    }


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--requests", type=int, default=1000)
    words.add_argument("--clients", type=int, default=32)
    words.add_argument("--limit-mib", type=int, default=1024)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--only", nargs="*", default=(), help="some kinds alone")
    words.add_argument("--json", type=Path, default=None)
    given = words.parse_args()
    found = attack(given.run, (), given.requests, given.clients, given.limit_mib * 2**20, given.seed, given.only)
    for name, value in found.items():
        if name != "outcomes":
            print(f"{name:20} {value if not isinstance(value, float) else round(value, 2)}")
    for name, outcome in found["outcomes"].items():
        print(f"  {name:28} {outcome}")
    if given.json:
        from chiasm.core.device import environment
        from chiasm.core.files import write_json

        write_json(given.json, {"found": found, "seed": given.seed, "environment": environment()})
    assert not found["restarts"], f"the server had to be started {found['restarts']} times again"


if __name__ == "__main__":
    main()
