"""Do swapped captions teach which words belong together? `python benchmarks/caption_swap.py [scenes] [flickr8k]`.

Scenes: the recipe `clip`, with and without hard negatives, at one budget. Flickr8k: a run of `flickr8k_retrieval`
goes on for a few epochs with low-rank changes of its text tower, with and without hard negatives, so that what further
training does is not taken for what the negatives do. Of each: caption_swap_accuracy (chance 0.5), the
same without pictures, and retrieval, all on validation. Prints tables and keeps them in
benchmarks/results/DATE-caption_swap.json.

`--data FLICKR8K` says where the photos are (default: CHIASM_DATA/flickr8k), `--base RUN` which run to start from (it is
trained otherwise), `--keep FOLDER` where runs are kept, so that a second call goes on.
"""

import argparse
import datetime
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment, pick_device
from chiasm.core.files import read_json, write_json
from chiasm.core.run_config import RunConfig
from chiasm.core.run_folder import MANIFEST
from chiasm.evaluate.caption_swap import METRIC
from chiasm.evaluate.evaluator import scores_as_json
from chiasm.evaluate.measure import measure, open_prepared
from chiasm.recipes import find_recipe
from chiasm.tasks.pipeline import Pipeline
from chiasm.train.run import run

RESULTS = Path(__file__).resolve().parent / "results"
NOTES = Console(stderr=True)
SHARE = 1.0
TABLE = (METRIC, "text_to_image_R@1", "text_to_image_R@10", "image_to_text_R@1", "image_to_text_R@10")


def with_swaps(config: RunConfig, share: float) -> RunConfig:
    """The config with a share of hard negatives in its retrieval."""
    tasks = {**config.tasks, "retrieval": replace(config.tasks["retrieval"], hard_negatives=share)}
    return replace(config, tasks=tasks)


def finished(config: RunConfig, folder: Path) -> Path:
    """Train a config into a folder, unless it is there."""
    if not (folder / MANIFEST).exists():
        run(config, folder, True, NOTES)
    return folder


def measured(folder: Path) -> dict[str, Any]:
    """All validation scores of a run, the caption-swap test included, whether or not it was trained for it."""
    pipeline = Pipeline.load(folder, pick_device())
    config = with_swaps(pipeline.config, 1.0)
    # As if its text tower were frozen: each text is then encoded once, and not once a view.
    words = replace(config.model.text, frozen=True)
    pipeline.config = replace(config, model=replace(config.model, text=words))
    examples, ledger = open_prepared(pipeline, "val", NOTES)
    whole = measure(pipeline, examples, ledger, "val", NOTES)
    return dict(scores_as_json(whole.outcome, whole.blind))


def scenes(keep: Path, _: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The recipe `clip` from scratch, in English and Chinese: without, and with hard negatives."""
    config = override(
        find_recipe("clip"),
        ["data.languages=en,zh", "train.precision=fp32", "train.validate_every=250", "test_split=val"],
    )
    runs = {"without": config, "with": with_swaps(config, SHARE)}
    return {name: measured(finished(one, keep / "scenes" / name)) for name, one in runs.items()}


def flickr8k(keep: Path, typed: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A trained run, and that run trained further: without, and with hard negatives."""
    where = f"data.path={typed.data}"
    base = typed.base
    if base is None:
        base = finished(override(find_recipe("flickr8k_retrieval"), [where]), keep / "flickr8k" / "base")
    further = [where, f"init_from={base}", "train.adapt=lora", f"train.epochs={typed.epochs}", "train.batch_size=128"]
    further += ["train.lr=3e-4", "train.validate_every=100000", "tasks.retrieval.captions_per_picture=1"]
    config = override(find_recipe("flickr8k_retrieval"), further)
    runs = {"further, without": config, "further, with": with_swaps(config, SHARE)}
    found = {"base": measured(Path(base))}
    for name, one in runs.items():
        found[name] = measured(finished(one, keep / "flickr8k" / name.replace(", ", "-")))
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| run | " + " | ".join(TABLE) + " | swap, no picture |", "| --- " * (len(TABLE) + 2) + "|"]
    for name, row in rows.items():
        scores = [row["metrics"][metric] for metric in TABLE]
        cells = [f"{one['value']:.3f} ({one['low']:.3f}-{one['high']:.3f}, n {one['n']:,})" for one in scores]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {row['no_picture'][METRIC]['value']:.3f} |")
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row["by_kind"][METRIC]))
    lines += ["", "| run | " + " | ".join(kinds) + " |", "| --- " * (len(kinds) + 1) + "|"]
    for name, row in rows.items():
        scores = [row["by_kind"][METRIC].get(kind) for kind in kinds]
        cells = ["" if one is None else f"{one['value']:.3f} (n {one['n']:,})" for one in scores]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there, measure, print, keep."""
    sources = {"scenes": scenes, "flickr8k": flickr8k}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="scenes, flickr8k; both if none is named")
    parser.add_argument("--data", default=str(Path(os.environ.get("CHIASM_DATA", "../shared/data")) / "flickr8k"))
    parser.add_argument("--base", default=None)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--keep", default=None)
    typed = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    place = RESULTS / f"{today}-caption_swap.json"
    kept = read_json(place, "results") if place.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        keep = Path(typed.keep or temporary)
        for name in typed.sources or sources:
            kept[name] = sources[name](keep, typed)
            print(f"\n{name}, validation, seed 0\n\n{table(kept[name])}")
            kept |= {"seed": 0, "threads": torch.get_num_threads(), "environment": environment()}
            write_json(place, kept)


if __name__ == "__main__":
    main()
