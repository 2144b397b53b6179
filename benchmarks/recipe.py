"""Run a recipe as a user would and keep what it measured: `python benchmarks/recipe.py demo [KEY=VALUE ...]`.

Writes benchmarks/results/DATE-RECIPE.json, or DATE-RECIPE-FOLDER.json where it trained on files, with the metrics,
intervals, blind scores, training time, hardware, versions and commit. `--collect RUN` keeps the numbers of a run that
is already there. benchmarks/claims.py says which texts tell the numbers of which result.

A number that cannot be made again is none: with uncommitted changes nothing is trained or kept.
"""

import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chiasm.core.device import environment

HERE = Path(__file__).resolve().parent


def collect(folder: Path, command: str, wall_s: float | None) -> Path:
    """Gather what a finished run folder holds into one result file, and return its path."""
    config = json.loads((folder / "config.json").read_text())
    newest = max((folder / "checkpoints").glob("step-*"))
    progress = json.loads((newest / "progress.json").read_text())
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "seed": config["seed"],
        "wall_s": wall_s,
        "training": {name: progress[name] for name in ("step", "trained_s", "best_step", "precision_why")},
        **json.loads((folder / "results.json").read_text()),
        "environment": json.loads((folder / "environment.json").read_text()),
    }
    files = Path(config["data"]["path"]).name
    name = config["recipe"] if files in config["recipe"] else f"{config['recipe']}-{files}"
    target = HERE / "results" / f"{result['date']}-{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return target


def check_clean(commit: str) -> None:
    """Exit where the code is no commit, as `core.device.environment` names it."""
    if not commit or commit.endswith("-dirty"):
        sys.exit(f"the code is {commit or 'no commit'!r}: commit first, so that the stored numbers name what made them")


def main() -> None:
    """Train (or take a run that is there), then store its numbers."""
    if sys.argv[1] == "--collect":
        folder = Path(sys.argv[2])
        config = json.loads((folder / "config.json").read_text())
        check_clean(json.loads((folder / "environment.json").read_text())["commit"])
        files = " --data FOLDER" if config["data"]["path"] else ""
        print(collect(folder, f"chiasm train {config['recipe']}{files}", None))
        return
    check_clean(str(environment()["commit"]))
    recipe, assignments = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / recipe
        settings = [word for assignment in assignments for word in ("--set", assignment)]
        command = ["chiasm", "train", recipe, *settings]
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", *command, "--out", str(folder)], check=True)
        wall_s = round(time.monotonic() - start, 1)
        shown = ["data.path=FOLDER" if word.startswith("data.path=") else word for word in command]
        print(f"{wall_s:.0f} s in all;", collect(folder, " ".join(shown), wall_s))


if __name__ == "__main__":
    main()
