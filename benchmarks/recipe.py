"""Run a recipe as a user would and keep what it printed: `python benchmarks/recipe.py demo [KEY=VALUE ...]`.

Writes benchmarks/results/DATE-RECIPE.json with the metrics, intervals, blind scores, wall time of the whole command,
hardware, versions and commit. This is the script behind every score in the README.
"""

import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, read the run folder's own numbers, and store them with the time of the whole command."""
    recipe, assignments = sys.argv[1], sys.argv[2:]
    folder = Path(tempfile.mkdtemp()) / recipe
    settings = [word for assignment in assignments for word in ("--set", assignment)]
    command = ["chiasm", "train", recipe, "--out", str(folder), *settings]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *command], check=True)
    wall_s = time.monotonic() - start
    shown = [word if not word.startswith("data.path=") else "data.path=FOLDER" for word in command[:3] + settings]
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(shown),
        "wall_s": round(wall_s, 1),
        **json.loads((folder / "results.json").read_text()),
        "environment": json.loads((folder / "environment.json").read_text()),
    }
    target = HERE / "results" / f"{result['date']}-{recipe}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"{wall_s:.0f} s in all; {target.relative_to(HERE.parent)}")
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
