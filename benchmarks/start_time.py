"""How long `import chiasm` and `chiasm --help` take: `python benchmarks/start_time.py [ROUNDS]`.

Each round starts `python -c pass`, the import and the help in turn. Printed are medians, and medians of the differences
to `python -c pass` of the same round. One JSON, kept with its date in benchmarks/results.
"""

import datetime
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chiasm.core.device import environment
from chiasm.core.files import write_bytes

RESULTS = Path(__file__).with_name("results")
ROUNDS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import chiasm": ["-c", "import chiasm"],
    "chiasm --help": ["-m", "chiasm", "--help"],
}


def seconds(words: list[str]) -> float:
    """Wall-clock time of one start."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, Any]:
    """Medians by command; a first round fills the caches of files and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, words in COMMANDS.items():
            taken = seconds(words)
            if number:
                times[name].append(taken)
    bare = times["python -c pass"]
    return {
        name: {
            "median_s": round(statistics.median(taken), 4),
            "least_s": round(min(taken), 4),
            "more_than_bare_s": round(statistics.median(one - base for one, base in zip(taken, bare, strict=True)), 4),
        }
        for name, taken in times.items()
    }


def main() -> None:
    """Measure, print and keep."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    text = json.dumps({"environment": environment(), "rounds": rounds, "starts": measure(rounds)}, indent=2)
    print(text)
    write_bytes(RESULTS / f"{datetime.date.today()}-start_time.json", text.encode() + b"\n")


if __name__ == "__main__":
    main()
