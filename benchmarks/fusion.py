"""Every fusion method at one training budget: `python benchmarks/fusion.py [SOURCE]` fills in docs/fusion.md.

The same towers, head, batches, learning rate and number of steps; only `model.fusion` changes. `scenes`: questions by
type. `sort_of_clevr`: first questions about one object, then relational and non-relational ones, over a grid of 25
tokens and not the recipe's keypoints, which leave fusion less to do. Each row says
parameters of the fusion block, seconds of the last stage, accuracy on 500 (or 200) test pictures with its 95 %
interval, and the score without pictures. Methods are trained one after another, so seconds compare roughly and scores
exactly. A row is kept in benchmarks/results/fusion-SOURCE.json as it comes; `--steps N` is for a try.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json, write_text
from chiasm.models.config import FusionName
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.fusion import build_fusion
from chiasm.recipes.table import find_recipe
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.stages import run_stages

HERE = Path(__file__).resolve().parent
DOC = HERE.parent / "docs" / "fusion.md"
MARKS = ("<!-- tables: begin -->", "<!-- tables: end -->")
RECIPES = {"scenes": "demo", "sort_of_clevr": "sort_of_clevr"}
GRID = ConvConfig(size_px=75, channels=(32, 64, 128, 128), layers=3, centred=True)
"""Sort-of-CLEVR's pictures as tokens that lie on them."""
STEPS = {"scenes": 600, "sort_of_clevr": 900}
"""Steps of each stage; Sort-of-CLEVR has two."""


def budget(source: str, method: str, steps: int) -> RunConfig:
    """The run of one method: questions alone, every word taking part in fusion."""

    def limited(train: TrainConfig) -> TrainConfig:
        return replace(train, steps=steps, limit_s=0.0, validate_every=steps, precision="fp32")

    config = find_recipe(RECIPES[source])
    words = replace(config.model.text, summary_tokens=0)
    tower = GRID if source == "sort_of_clevr" else config.model.image
    model = replace(config.model, fusion=method, fusion_layers=2, heads=4, image=tower, text=words)
    stages = {name: replace(stage, train=limited(stage.train)) for name, stage in config.stages.items()}
    data = replace(config.data, languages=("en",))
    config = replace(config, model=model, train=limited(config.train), data=data, stages=stages)
    return replace(config, primary_metric="", tasks={"vqa": VqaConfig()})


def measure(source: str, method: str, steps: int) -> dict[str, Any]:
    """Train one method and return its row."""
    config = budget(source, method, steps)
    parameters = sum(p.numel() for p in build_fusion(config.model).parameters())
    with tempfile.TemporaryDirectory() as place:
        finished = run_stages(config, Path(place) / method, False, Console(stderr=True))
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
    lines = ["| method | parameters | training | all | " + " | ".join(kinds) + " | no image |"]
    lines.append("| --- " * (len(kinds) + 5) + "|")
    for row in sorted(rows, key=lambda one: -one["all"]["value"]):
        scores = " | ".join(f"{row['by_kind'][kind]['value']:.3f}" for kind in kinds)
        whole = f"{row['all']['value']:.3f} ({row['all']['low']:.3f}-{row['all']['high']:.3f})"
        start = f"| `{row['method']}` | {row['parameters']:,} | {row['trained_s']:.0f} s | {whole} "
        lines.append(f"{start}| {scores} | {row['no_picture']:.3f} |")
    return "\n".join(lines)


def results_file(source: str) -> Path:
    """Where the rows of a source are kept."""
    return HERE / "results" / f"fusion-{source}.json"


def kept_rows(source: str, steps: int) -> list[dict[str, Any]]:
    """Rows of an earlier call with the same steps, which need not be measured again."""
    file = results_file(source)
    kept = read_json(file, "results") if file.exists() else {}
    return kept["rows"] if kept.get("steps") == steps else []


def section(source: str) -> str:
    """A source's table under its heading."""
    kept = read_json(results_file(source), "results")
    count = 1 + len(find_recipe(RECIPES[source]).stages)
    stages = f"{count} stages of " if count > 1 else ""
    questions = f"n = {kept['rows'][0]['all']['n']:,} questions"
    return f"### {source}: {stages}{kept['steps']} steps, {questions}, seed 0\n\n{table(kept['rows'])}"


def main() -> None:
    """Measure all methods on one set or both, keep each row as it comes, and put the tables into the page."""
    parser = argparse.ArgumentParser(description="Every fusion method at one training budget.")
    parser.add_argument("sources", nargs="*", default=list(STEPS), help=" or ".join(STEPS))
    parser.add_argument("--steps", type=int, help="steps of each stage")
    typed = parser.parse_args()
    for source in typed.sources:
        steps = typed.steps or STEPS[source]
        rows = kept_rows(source, steps)
        for method in (name for name in get_args(FusionName) if name != "shared_sum"):  # made for a contrast beside it
            if method not in {row["method"] for row in rows}:
                rows.append(measure(source, method, steps))
                kept = {"steps": steps, "seed": 0, "rows": rows, "environment": environment()}
                write_json(results_file(source), kept)
    page = DOC.read_text(encoding="utf-8")
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    parts = "\n\n".join(section(source) for source in STEPS if results_file(source).exists())
    write_text(DOC, f"{before}{MARKS[0]}\n\n{parts}\n\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
