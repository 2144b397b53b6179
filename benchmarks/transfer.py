"""The numbers of docs/transfer.md: `python benchmarks/transfer.py [NAME ...]`, NAME one of `MEASURED`.

Runs each command as a user would and keeps what it wrote in benchmarks/results/DATE-transfer.json, under its name,
beside what is already there. The data are found through CHIASM_DATA (default ../shared/data).
"""

import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chiasm.core.files import read_json, write_json

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data"))
MEASURED: dict[str, tuple[str, ...]] = {
    "cifar10_zero_shot": ("evaluate", "starter", "--data", "cifar10_subset/images", "--split", "test"),
    "cifar10_probe": (
        "probe",
        "starter",
        "--data",
        "cifar10_subset/images",
        "--split",
        "test",
        "--shots",
        "1,2,4,8,16",
        "--draws",
        "20",
        "--mirror",
    ),
    "flickr8k_starter": ("evaluate", "starter", "--data", "flickr8k"),
}


def measure(name: str) -> dict[str, Any]:
    """Run one command; return its JSON with the command, its seconds and the date."""
    words = MEASURED[name]
    placed = [
        str(DATA / word) if before == "--data" else word for before, word in zip(("", *words), words, strict=False)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "chiasm", *placed, "--json", str(file)], check=True)
        seconds = time.monotonic() - start
        found: dict[str, Any] = read_json(file, "a result")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**found, "command": " ".join(["chiasm", *words]), "date": date, "seconds": round(seconds, 1)} | {
        "data": words[words.index("--data") + 1]
    }


def main() -> None:
    """Measure what is named, or everything."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    target = HERE / "results" / f"{date}-transfer.json"
    for name in sys.argv[1:] or MEASURED:
        known = read_json(target, "results") if target.exists() else {}
        write_json(target, {**known, name: measure(name)})


if __name__ == "__main__":
    main()
