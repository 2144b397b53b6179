"""Do swapped captions teach which words belong together? `python benchmarks/caption_swap.py SOURCE`.

A trained run goes on for a few epochs, with and without hard negatives, so that what further training does is not taken
for what the negatives do. Of each: caption_swap_accuracy (chance 0.5), the same without pictures, and retrieval, all on
validation. Prints a table and keeps it in benchmarks/results/DATE-caption_swap.json, or in the file of `--json`.

`--base RUN` is the trained run, of any recipe with the task retrieval; if none is given, `demo` is trained for scenes
and `flickr8k_retrieval` for photos. Its image tower is frozen; `--adapt lora` lets a frozen text tower take part by
low-rank changes. `--data FLICKR8K` says where the photos are (default: CHIASM_DATA/flickr8k), `--keep FOLDER` where the
runs are kept, so that a second call goes on.
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
from chiasm.evaluate.measure import measure, open_prepared
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.caption_swap import METRIC
from chiasm.tasks.retrieval import Retrieval, RetrievalConfig
from chiasm.tasks.scoring import scores_as_json
from chiasm.train.config import RunConfig, stored_run_config
from kept_runs import finished

RESULTS = Path(__file__).resolve().parent / "results"
NOTES = Console(stderr=True)
SHARE = 1.0
TABLE = (METRIC, "text_to_image_R@1", "text_to_image_R@10", "image_to_text_R@1", "image_to_text_R@10")


def with_swaps(config: RunConfig, share: float) -> RunConfig:
    """The config with a share of hard negatives in its retrieval."""
    tasks = {**config.tasks, "retrieval": replace(config.tasks["retrieval"], hard_negatives=share)}
    return replace(config, tasks=tasks)


def measured(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Validation scores of a run's retrieval on the data of `config`, the caption-swap test included."""
    pipeline = Pipeline.load(folder, pick_device())
    # As if its towers were frozen: each picture and text is then encoded once, and not once a view.
    model = pipeline.config.model
    model = replace(model, image=config.model.image, text=replace(model.text, frozen=True))
    pipeline.config = replace(config, model=model)
    task: Retrieval = pipeline.task(Retrieval)
    task.config = replace(task.config, hard_negatives=SHARE)
    pipeline.tasks = {task.name: task}
    examples, ledger = open_prepared(pipeline, "val", NOTES)
    whole = measure(pipeline, examples, ledger, "val", NOTES)
    return dict(scores_as_json(whole.outcome, whole.blind))


def further(base: Path, typed: argparse.Namespace, settings: list[str]) -> RunConfig:
    """The run that goes on where `base` ended, on retrieval alone."""
    config = stored_run_config(read_json(base / "config.json", "the run's config"), "config.json")
    config = replace(config, tasks={"retrieval": RetrievalConfig(captions_per_picture=typed.captions)})
    settings = [*settings, f"init_from={base}", f"train.adapt={typed.adapt}", "train.trainable=*", "train.steps=0"]
    settings += [f"train.epochs={typed.epochs}", f"train.lr={typed.lr}", "train.limit_s=0", "train.ema_decay=0"]
    settings += ["train.validate_every=100000", "train.precision=fp32", "primary_metric=text_to_image_R@1"]
    return override(config, ["test_split=val", "train.warmup_steps=-1", "model.image.frozen=true", *settings])


def source(name: str, keep: Path, typed: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A trained run, and that run trained further: without, and with hard negatives."""
    if name == "scenes":
        recipe, settings = "demo", ["data.languages=en,zh", "data.train_pictures=8192", "train.batch_size=64"]
        settings.append("data.questions_per_picture=1")
    else:
        recipe, settings = "flickr8k_retrieval", [f"data.path={typed.data}", "train.batch_size=128"]
    base = Path(typed.base) if typed.base else None
    if base is None:
        data = [one for one in settings if one.startswith("data.path")]
        base = finished(override(find_recipe(recipe), data), keep / name / "base")
    config = further(base, typed, settings)
    found = {"before": measured(base, config)}
    for run_name, share in (("further, without", 0.0), ("further, with", SHARE)):
        place = finished(with_swaps(config, share), keep / name / run_name.replace(", ", "-"))
        found[run_name] = measured(place, config)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["scenes", "flickr8k"])
    parser.add_argument("--data", default=str(Path(os.environ.get("CHIASM_DATA", "../shared/data")) / "flickr8k"))
    parser.add_argument("--base", default=None)
    parser.add_argument("--adapt", default="", help="as train.adapt; a frozen text tower needs lora or full")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--captions", type=int, default=2, help="captions of a picture in a step")
    parser.add_argument("--keep", default=None)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--json", type=Path, default=RESULTS / f"{today}-caption_swap.json")
    typed = parser.parse_args()
    place: Path = typed.json
    kept = read_json(place, "results") if place.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        rows = source(typed.source, Path(typed.keep or temporary), typed)
    print(f"\n{typed.source}, validation, seed 0\n\n{table(rows)}")
    settings = {name: value for name, value in vars(typed).items() if name not in ("data", "base", "keep", "json")}
    kept[typed.source] = {"settings": settings, "threads": torch.get_num_threads(), "rows": rows}
    write_json(place, {**kept, "seed": 0, "environment": environment()})


if __name__ == "__main__":
    main()
