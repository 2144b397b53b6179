"""What few pictures are worth: the recipe `retrieval` on 50 to 6,000 photos of Flickr8k beside the starter, paired.

Of Flickr8k's 1,000 validation photos the first 200 choose (weights, share of the classes) and the other 800, on which
nothing is chosen, are measured. Prints a line a size, and with --json writes all scores.

    python benchmarks/few_pictures.py FLICKR8K --sizes 50,200,1000,6000
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.core.random import counter_rng
from chiasm.recipes.table import find_recipe
from chiasm.train.run import run

METRICS = ("text_to_image_R@1", "text_to_image_R@10", "image_to_text_R@10")
CHOOSING = 5
"""One in so many validation photos, the first, chooses: 200 of 1,000."""


def write_subset(source: Path, folder: Path, size: int) -> Path:
    """`size` training photos, drawn once, with both halves of the validation split, in the layout data.jsonl."""
    rows = {
        split: [json.loads(line) for line in (source / split / "data.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "val")
    }
    choosing = len(rows["val"]) // CHOOSING
    drawn = counter_rng("few pictures").permutation(len(rows["train"]))[:size]
    parts = {
        "train": [rows["train"][int(number)] for number in drawn],
        "val": rows["val"][:choosing],
        "test": rows["val"][choosing:],
    }
    folder.mkdir()
    (folder / "images").symlink_to((source / "images").resolve())
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for split, chosen in parts.items():
            for row in chosen:
                kept = {"id": row["id"], "image": row["image"], "captions": row["captions"], "split": split}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    return folder


def measure_size(source: Path, size: int, settings: list[str]) -> dict[str, Any]:
    """Train on so many photos; the run's scores, the starter's, and their paired differences."""
    with tempfile.TemporaryDirectory() as place:
        data = write_subset(source, Path(place) / "data", size)
        config = override(find_recipe("retrieval"), [f"data.path={data}", "test_split=test", *settings])
        finished = run(config, Path(place) / "run", False, Console(stderr=True))
        assert finished is not None and finished.measured.start is not None, "one process, beside the starter"
        share = finished.forgetting.class_share
        return {
            "photos": size,
            "steps": finished.facts.steps,
            "training_s": finished.facts.training_time_s,
            "share": share.share if share else None,
            "run": {name: finished.measured.outcome.scores[name].as_dict() for name in METRICS},
            "starter": {name: finished.measured.start.scores[name].as_dict() for name in METRICS},
            "verdict": finished.verdict.as_dict(),
        }


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder flickr8k")
    parser.add_argument("--sizes", default="50,200,1000,6000")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    typed = parser.parse_args()
    results = []
    for size in map(int, typed.sizes.split(",")):
        one = measure_size(typed.data, size, typed.settings)
        results.append(one)
        for name in METRICS:
            found = one["verdict"]["against_start"][name]
            low, high = 100 * found["low"], 100 * found["high"]
            print(
                f"{size:,} photos, {one['steps']} steps, share {one['share']}: {name} "
                f"{100 * one['run'][name]['value']:.1f}, starter {100 * one['starter'][name]['value']:.1f}, "
                f"difference {100 * found['difference']:+.1f} ({low:+.1f} to {high:+.1f}), n {found['n']:,}"
            )
    if typed.json:
        write_json(typed.json, {"results": results, "environment": environment()})


if __name__ == "__main__":
    main()
