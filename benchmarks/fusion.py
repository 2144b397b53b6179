"""Every fusion method at one training budget: `python benchmarks/fusion.py [STEPS]` fills in docs/fusion.md.

The same towers, head, batches, learning rate and number of steps; only `model.fusion` changes. Scenes: questions by
type. Sort-of-CLEVR: relational and non-relational questions. Each row says parameters of the fusion block, seconds of
training, accuracy on 500 (or 200) test pictures with its 95 % interval, and the score without pictures. Methods are
trained one after another on the same machine, so seconds compare roughly and scores exactly.
"""

import json
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.core.run_config import FusionName, RunConfig, TaskConfig
from chiasm.models.fusion import build_fusion
from chiasm.recipes import find_recipe
from chiasm.train.run import run

HERE = Path(__file__).resolve().parent
DOC = HERE.parent / "docs" / "fusion.md"
MARKS = ("<!-- tables: begin -->", "<!-- tables: end -->")
STEPS = {"scenes": 600, "sort_of_clevr": 1500}
RESULTS = HERE / "results" / "fusion.json"


def budget(source: str, method: str, steps: int) -> RunConfig:
    """The run of one method: questions alone, every word taking part in fusion."""
    config = find_recipe("demo" if source == "scenes" else "sort_of_clevr")
    words = replace(config.model.text, summary_tokens=0)
    model = replace(config.model, fusion=method, fusion_layers=2, heads=4, text=words)
    train = replace(config.train, steps=steps, limit_s=0.0, validate_every=steps, precision="fp32")
    data = replace(config.data, languages=("en",))
    return replace(config, model=model, train=train, data=data, primary_metric="", tasks={"vqa": TaskConfig()})


def measure(source: str, method: str, steps: int) -> dict[str, Any]:
    """Train one method and return its row."""
    config = budget(source, method, steps)
    parameters = sum(p.numel() for p in build_fusion(config.model).parameters())
    with tempfile.TemporaryDirectory() as place:
        finished = run(config, Path(place) / method, False, Console(stderr=True))
    assert finished is not None
    outcome, blind = finished.measured.outcome, finished.measured.blind["no_picture"]
    return {
        "method": method,
        "parameters": parameters,
        "trained_s": round(finished.facts.training_time_s, 1),
        "all": outcome.scores["vqa_accuracy"].as_dict(),
        "by_kind": {kind: score.as_dict() for kind, score in outcome.by_kind["vqa_accuracy"].items()},
        "no_picture": blind.scores["vqa_accuracy"].value,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, best first."""
    kinds = list(rows[0]["by_kind"])
    lines = ["| method | parameters | training | all | " + " | ".join(kinds) + " | no picture |"]
    lines.append("| --- " * (len(kinds) + 5) + "|")
    for row in sorted(rows, key=lambda one: -one["all"]["value"]):
        scores = " | ".join(f"{row['by_kind'][kind]['value']:.3f}" for kind in kinds)
        whole = f"{row['all']['value']:.3f} ({row['all']['low']:.3f}-{row['all']['high']:.3f})"
        start = f"| `{row['method']}` | {row['parameters']:,} | {row['trained_s']:.0f} s | {whole} "
        lines.append(f"{start}| {scores} | {row['no_picture']:.3f} |")
    return "\n".join(lines)


def finished_rows(steps: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Rows of an earlier call with the same steps, which need not be measured again."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return kept["results"] if kept.get("steps") == steps else {source: [] for source in STEPS}


def main() -> None:
    """Measure all methods on both sets, keep each row as it comes, and put the tables into the page."""
    steps = {name: int(sys.argv[1]) for name in STEPS} if len(sys.argv) > 1 else STEPS
    results = finished_rows(steps)
    for source, method in product(STEPS, get_args(FusionName)):
        if method not in {row["method"] for row in results[source]}:
            results[source].append(measure(source, method, steps[source]))
            kept = {"steps": steps, "seed": 0, "results": results, "environment": environment()}
            write_json(RESULTS, kept)
    parts = [
        f"### {source}: {steps[source]} steps, n = {rows[0]['all']['n']:,} questions, seed 0\n\n{table(rows)}"
        for source, rows in results.items()
    ]
    page = DOC.read_text(encoding="utf-8")
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    DOC.write_text(before + MARKS[0] + "\n\n" + "\n\n".join(parts) + "\n\n" + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
