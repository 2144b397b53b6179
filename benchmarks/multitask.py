"""One model on three tasks against three models of one task: `python benchmarks/multitask.py [SECONDS]`.

All are the recipe `demo` with other tasks, on the same scenes and the same machine. The three models together train as
long as the one (SECONDS, default 300, on however many threads the process has), each for a third of it; a last row
gives each of the three the whole time. Prints a table and keeps it in benchmarks/results/multitask.json.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.recipes.table import find_recipe
from chiasm.train.run import run

RESULTS = Path(__file__).resolve().parent / "results" / "multitask.json"
METRICS = {
    "retrieval": ("text_to_image_R@1", "image_to_text_R@1"),
    "vqa": ("vqa_accuracy",),
    "captioning": ("caption_truth",),
}
SECONDS = 300.0


def measure(tasks: tuple[str, ...], limit_s: float) -> dict[str, Any]:
    """Train the demo's model on these tasks for so long, and return steps and test scores."""
    config = find_recipe("demo")
    train = replace(config.train, limit_s=limit_s, steps=20_000, precision="fp32", validate_every=20_000)
    chosen = {name: config.tasks[name] for name in tasks}
    config = replace(config, tasks=chosen, primary_metric=METRICS[tasks[0]][0], train=train)
    with tempfile.TemporaryDirectory() as place:
        finished = run(config, Path(place) / "run", False, Console(stderr=True))
    assert finished is not None
    scores = finished.measured.outcome.scores
    return {
        "tasks": tasks,
        "steps": finished.facts.steps,
        "trained_s": round(finished.facts.training_time_s, 1),
        "scores": {metric: scores[metric].as_dict() for name in tasks for metric in METRICS[name]},
    }


def shown(row: dict[str, Any]) -> str:
    """One row of Markdown."""
    metrics = [metric for names in METRICS.values() for metric in names]
    cells = [f"{row['scores'][m]['value']:.3f}" if m in row["scores"] else "" for m in metrics]
    return f"| {' + '.join(row['tasks'])} | {row['trained_s']:.0f} s, {row['steps']:,} steps | {' | '.join(cells)} |"


def main() -> None:
    """Train seven models and print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rows = [measure(tuple(METRICS), seconds)]
    for share in (1 / 3, 1.0):
        rows += [measure((name,), seconds * share) for name in METRICS]
    metrics = [metric for names in METRICS.values() for metric in names]
    print("| trained on | time | " + " | ".join(metrics) + " |")
    print("| --- " * (len(metrics) + 2) + "|")
    for row in rows:
        print(shown(row))
    write_json(RESULTS, {"seed": 0, "threads": torch.get_num_threads(), "rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
