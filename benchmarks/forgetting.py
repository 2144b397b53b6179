"""What adapting to emoji costs on photos, rail by rail: `python benchmarks/forgetting.py [--photos N] [--seeds 0,1,2]`.

A model is trained on Flickr8k by the recipe `flickr8k_retrieval`, then adapted to emoji pictures and their English
names by the same recipe: once without guard rails, and once with each of them. Data: CHIASM_DATA, default
../shared/data.

Nothing is reported on what it was chosen on. Flickr8k's validation photos are cut in two: one half picks the first
model's weights and is the retention check of the others, on the other one "kept" is measured. The concepts of emoji's
validation split are cut in two as well: one half picks weights and shares, on the other the names of concepts that no
training picture shows are told apart. Writes benchmarks/results/DATE-forgetting.json after each run; with --work, runs
that are there already are only measured.
"""

import argparse
import datetime
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment, pick_device
from chiasm.core.files import write_json
from chiasm.core.random import counter_rng, counter_seed
from chiasm.data.config import DataConfig, OtherDataConfig
from chiasm.data.files import FilesConfig
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import open_prepared
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.scoring import Items, Outcome
from chiasm.train.run import run

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", HERE.parent.parent / "shared" / "data"))
OLD = ("text_to_image_R@10", "image_to_text_R@10")
NEW = "acc1"
DRAWS = 2000
CONSOLE = Console(file=sys.stderr)

RAILS: dict[str, tuple[str, ...]] = {
    "none": (),
    "all": ("train.lr=0", "train.interpolate=true"),
    "interpolation": ("train.interpolate=true",),
    "probe stops": ("train.retention.on_drop=stop",),
    "learning rate": ("train.lr=0",),
    "learning rate, probe stops": ("train.lr=0", "train.retention.on_drop=stop", "train.validate_every=5"),
    "old data mixed in": (),
}
"""Name -> what is set beside the recipe's own; "all" only warns, since interpolation makes good what was lost. Mixing
in the old training data is no rail but what is possible where that is still there: twice as long a run."""
WATCHED = ("all", "interpolation", "probe stops", "learning rate, probe stops")


def halves(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two halves of a split, by a hash of a key: what shares it stays together."""
    first = [row for row in rows if counter_seed("forgetting", str(row[key])) % 2 == 0]
    return first, [row for row in rows if row not in first]


def cut(source: Path, target: Path, key: str, most: int) -> None:
    """Write the two halves of a set's validation split as "val" and "held_out", and its training split as it is."""
    read = {}
    for split in ("train", "val"):
        lines = (source / split / "data.jsonl").read_text(encoding="utf-8").splitlines()
        read[split] = [json.loads(line) for line in lines]
    first, second = halves(read["val"][:most] if most else read["val"], key)
    for name, chosen in {"train": read["train"], "val": first, "held_out": second}.items():
        (target / name).mkdir(parents=True)
        rows = [{k: v for k, v in row.items() if k != "split"} for row in chosen]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (target / name / "data.jsonl").write_text(text, encoding="utf-8")


def outcome_of(folder: Path, data: DataConfig, split: str) -> Outcome:
    """What a finished run says of a split."""
    pipeline = Pipeline.load(folder, pick_device())
    pipeline.config = replace(pipeline.config, data=data)
    examples, _ = open_prepared(pipeline, split, CONSOLE)
    return evaluate(pipeline, examples)


def kept(before: Items, after: Items) -> dict[str, float | int]:
    """Share of a recall that is left, with its 95 % interval over draws of pictures."""
    pictures, place = np.unique(before.clusters, return_inverse=True)
    sums = [np.bincount(place, one.values, len(pictures)) for one in (before, after)]
    drawn = counter_rng("kept").integers(0, len(pictures), (DRAWS, len(pictures)))
    shares = sums[1][drawn].sum(1) / sums[0][drawn].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return {"value": sums[1].sum() / sums[0].sum(), "low": float(low), "high": float(high), "n": len(before.values)}


def adapt(rail: str, seed: int, base: Path, place: Path, settings: Sequence[str]) -> Path:
    """Adapt the base model to emoji with one rail, and return the run folder."""
    folder = place / f"{rail.replace(',', '').replace(' ', '-')}-{seed}"
    if (folder / "MANIFEST.json").exists():
        return folder
    watch = [f"train.retention.path={place / 'flickr8k'}", f"train.retention.images={DATA / 'flickr8k'}"]
    watch += ["train.retention.examples=0"]
    words = [
        f"seed={seed}",
        f"init_from={base}",
        f"data.path={place / 'emoji'}",
        f"data.images={DATA / 'emoji'}",
        "data.label_prompts={label}",
        "data.on_leak=drop",  # hearts of several colours are one black drawing
        f"primary_metric={NEW}",
        "test_split=held_out",
        *settings,
        *(watch if rail in WATCHED else []),
        *RAILS[rail],
    ]
    config = override(find_recipe("flickr8k_retrieval"), words)
    if rail == "old data mixed in":
        old = OtherDataConfig(path=str(place / "flickr8k"), images=str(DATA / "flickr8k"))
        config = replace(config, data=replace(config.data, others={"old": old}))
    run(config, folder, (folder / "checkpoints").exists(), CONSOLE)
    return folder


def row_of(rail: str, seed: int, folder: Path, before: Outcome, flickr: DataConfig) -> dict[str, Any]:
    """One run, measured on both domains."""
    after, results = outcome_of(folder, flickr, "held_out"), json.loads((folder / "results.json").read_text())
    return {
        "rail": rail,
        "seed": seed,
        "old": {metric: after.scores[metric].as_dict() for metric in OLD},
        "kept": {metric: kept(before.items[metric], after.items[metric]) for metric in OLD},
        "new": results["metrics"][NEW],
        "new_blind": results["blind"][NEW],
        "forgetting": results["forgetting"],
    }


def over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Rail -> metric -> mean, least and most over the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for rail in dict.fromkeys(row["rail"] for row in rows):
        own = [row for row in rows if row["rail"] == rail]
        values = {f"kept {metric}": [row["kept"][metric]["value"] for row in own] for metric in OLD}
        values[NEW] = [row["new"]["value"] for row in own]
        found[rail] = {name: [sum(v) / len(v), min(v), max(v)] for name, v in values.items()}
    return found


def shown(name: str, old: Mapping[str, Any], share: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A row of Markdown."""
    cells = [name]
    for metric in OLD:
        left = share.get(metric)
        cells.append(f"{old[metric]['value']:.3f}")
        cells.append(f"{left['value']:.3f} ({left['low']:.3f}-{left['high']:.3f})" if left else "")
    cells.append(f"{new['value']:.3f} ({new['low']:.3f}-{new['high']:.3f})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Train the base where none is given, adapt it with each rail and seed, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=0, help="of Flickr8k's validation photos, the first so many")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, help="where runs are kept; a temporary folder if not given")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="key=value for every adaptation")
    parser.add_argument("--name", default="forgetting", help="of the file of results")
    given = parser.parse_args()
    told = [f"--photos={given.photos}", f"--seeds={given.seeds}", *(f"--set={one}" for one in given.settings)]
    with tempfile.TemporaryDirectory() as temporary:
        place = given.work or Path(temporary)
        if not (place / "emoji").exists():
            cut(DATA / "flickr8k", place / "flickr8k", "id", given.photos)
            cut(DATA / "emoji", place / "emoji", "concept", 0)
        base, flickr = place / "base", FilesConfig(path=str(place / "flickr8k"), images=str(DATA / "flickr8k"))
        if not (base / "MANIFEST.json").exists():
            config = replace(find_recipe("flickr8k_retrieval"), data=flickr)
            run(config, base, (base / "checkpoints").exists(), CONSOLE)
        emoji = FilesConfig(path=str(place / "emoji"), images=str(DATA / "emoji"), label_prompts=("{label}",))
        before, named = outcome_of(base, flickr, "held_out"), outcome_of(base, emoji, "held_out")
        start = {metric: before.scores[metric].as_dict() for metric in OLD}
        print("| guard rails | " + " | ".join(f"{m} | kept" for m in OLD) + f" | emoji {NEW} |")
        print("| --- " * 6 + "|")
        print(shown("before adapting", start, {}, named.scores[NEW].as_dict()), flush=True)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        rows: list[dict[str, Any]] = []
        result: dict[str, Any] = {
            "date": today,
            "command": shlex.join(["python", "benchmarks/forgetting.py", *told]),
            "rails": RAILS,
            "before": {"old": start, "new": named.scores[NEW].as_dict(), "new_majority": named.baseline[NEW]},
            "rows": rows,
            "environment": environment(),
        }
        for seed in map(int, given.seeds.split(",")):
            for rail in RAILS:
                folder = adapt(rail, seed, base.resolve(), place.resolve(), given.settings)
                rows.append(row_of(rail, seed, folder, before, flickr))
                print(shown(f"{rail}, seed {seed}", *(rows[-1][part] for part in ("old", "kept", "new"))), flush=True)
                result["over_seeds"] = over_seeds(rows)
                write_json(HERE / "results" / f"{today}-{given.name}.json", result)
        print("\nmean (least to most) over the seeds")
        for rail, values in over_seeds(rows).items():
            cells = [f"{name} {mean:.3f} ({least:.3f} to {most:.3f})" for name, (mean, least, most) in values.items()]
            print(f"{rail}: " + ", ".join(cells))


if __name__ == "__main__":
    main()
