"""Do labels and captions together beat either alone? `python benchmarks/labels_and_captions.py` prints a table.

Flickr8k's captions and CIFAR-10's class names, in one space (recipe `labels_and_captions`), against the same model
trained on one of them. Each arm passes over its own data equally often; nothing is chosen by what the table shows.
Measured: retrieval on Flickr8k's validation photos; classes on CIFAR-10's test pictures by the sentence "a photo of a
{label}.". In the arms "some labels", four classes never occur in training and are the only ones that are asked for.
Three seeds, and the mean difference over them with its 95 % interval. The folder of data is found through CHIASM_DATA
(default: ../shared/data). Results are kept in benchmarks/results/labels_and_captions.json; what is there is not run
again.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ablations import line
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "labels_and_captions.json"
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).resolve()
PHOTOS = DATA / "flickr8k"
SEEDS = (0, 1, 2)
UNSEEN = ("bird", "deer", "ship", "truck")
"""Classes without a label in the arms "some labels": two animals and two vehicles."""
FOR_VALIDATION = 50
"""Pictures a class, of the 400 for training, that choose the best weights where labels are all there is."""
ARMS = ("captions", "labels", "labels and captions", "some labels", "some labels and captions")
METRICS = ("image_to_text_R@1", "text_to_image_R@1", "acc1 of 10", "acc1 of 4 unseen")


def lay_out(place: Path) -> None:
    """Class folders with a validation part: all ten classes, six of them, and the other four."""
    for part in ("train", "test"):
        for folder in sorted((DATA / "cifar10_subset" / "images" / part).iterdir()):
            kinds = ("all", "unseen" if folder.name in UNSEEN else "some")
            for number, picture in enumerate(sorted(folder.iterdir())):
                split = "val" if part == "train" and number < FOR_VALIDATION else part
                for kind in kinds:
                    target = place / kind / split / folder.name
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(picture, target / picture.name)


def chiasm(*words: str) -> None:
    """One command, as a user types it."""
    subprocess.run([sys.executable, "-m", "chiasm", *words], check=True)


def train(arm: str, place: Path, seed: int, run: Path) -> None:
    """Train one arm into a run folder."""
    classes = place / ("some" if arm.startswith("some") else "all")
    if "captions" not in arm:
        words = ["flickr8k_retrieval", "--set", f"data.path={classes}", "--set", "primary_metric=acc1"]
        words += ["--set", "init_from="]
    elif arm == "captions":
        words = ["flickr8k_retrieval", "--set", f"data.path={PHOTOS}", "--set", "init_from="]
    else:
        words = ["labels_and_captions", "--set", f"data.path={PHOTOS}", "--set", f"data.others.classes.path={classes}"]
    chiasm("train", *words, "--set", f"seed={seed}", "--out", str(run))


def scores(run: Path, place: Path) -> dict[str, dict[str, float]]:
    """The arm's four numbers."""
    found = {}
    for name, data, split in (
        ("photos", PHOTOS, "val"),
        ("all", place / "all", "test"),
        ("unseen", place / "unseen", "test"),
    ):
        file = run.parent / f"{name}.json"
        chiasm("evaluate", str(run), "--data", str(data), "--split", split, "--json", str(file))
        found[name] = read_json(file, "scores")["metrics"]
    recalls = {metric: found["photos"][metric] for metric in METRICS[:2]}
    return {**recalls, METRICS[2]: found["all"]["acc1"], METRICS[3]: found["unseen"]["acc1"]}


def table(kept: dict[str, dict[str, Any]]) -> str:
    """Mean over seeds, and the seeds' standard deviation."""
    lines = ["| trained on | " + " | ".join(METRICS) + " |", "| --- " * (len(METRICS) + 1) + "|"]
    for arm, by_seed in kept.items():
        cells = []
        for metric in METRICS:
            values = [one[metric]["value"] for one in by_seed.values()]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, keep it, and print the table."""
    kept: dict[str, dict[str, Any]] = read_json(RESULTS, "results")["scores"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lay_out(place)
        for seed in SEEDS:
            for arm in ARMS:
                if str(seed) not in kept.setdefault(arm, {}):
                    run = place / f"{arm.replace(' ', '_')}-{seed}"
                    train(arm, place, seed, run)
                    kept[arm][str(seed)] = scores(run, place)
                    shutil.rmtree(run)
                    write_json(RESULTS, {"scores": kept, "unseen": UNSEEN, "environment": environment()})
    print(table(kept))
    for both in ("labels and captions", "some labels and captions"):
        for alone in ("captions", both.removesuffix(" and captions")):
            for metric in METRICS:
                arms = {arm: [kept[arm][str(seed)][metric]["value"] for seed in SEEDS] for arm in (alone, both)}
                print(line(metric, arms))


if __name__ == "__main__":
    main()
