"""A drawing style never trained on: `python benchmarks/emoji_styles.py [--styles noto,...] [--set KEY=VALUE ...]`.

Five runs. Each trains the recipe flickr8k_retrieval on the training concepts in four styles, takes the weights that are
best on the validation concepts in these four, and is measured once on the validation concepts in the fifth ("test"):
a picture looks for its concept's words among those of all validation concepts (image_to_text_R@k). The starter answers
the same. Also measured: the fifth style of concepts that were trained on, among all training concepts ("seen").

Writes benchmarks/results/DATE-emoji_styles.json: each style, and all together with intervals that draw concepts.
The data are found through CHIASM_DATA (default ../shared/data); results of finished styles in --out are not made again.
"""

import argparse
import datetime
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import chiasm
from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json, write_text
from chiasm.data.config import DataConfig
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import open_prepared
from chiasm.metrics.intervals import proportion
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train.stages import run_stages

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).absolute() / "emoji"
STYLES = ("openmoji", "openmoji-black", "noto", "twemoji", "fluent-flat")
METRICS = ("image_to_text_R@1", "image_to_text_R@10")
SETTINGS: tuple[str, ...] = (
    "train.precision=fp32",
    "init_from=",  # beside the starter, not from it
    "data.on_leak=drop",  # some flags of different concepts are one and the same picture
    "model.image.size_px=96",  # the pictures have 64 px, and 96 cost a fifth of the usual 224
)


def split_by_style(held: str, place: Path) -> None:
    """Write the rows of one experiment: train and val in the other styles, test and seen in the style held out."""
    for name in ("train", "val"):
        rows = [json.loads(line) for line in (DATA / name / "data.jsonl").read_text(encoding="utf-8").splitlines()]
        for target, wanted in ((name, False), ({"train": "seen", "val": "test"}[name], True)):
            kept = [row for row in rows if (row["style"] == held) == wanted]
            # A concept's name is its caption; as a label it would be scored twice.
            lines = [{key: row[key] for key in ("id", "image", "concept", "captions")} for row in kept]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_text(place / target / "data.jsonl", text)


def outcomes(pipeline: Pipeline, data: DataConfig, split: str) -> dict[str, Any]:
    """Hits of every picture, and the concept that each shows."""
    before = pipeline.config
    pipeline.config = replace(before, data=data)
    examples, _ = open_prepared(pipeline, split, Console(stderr=True))
    items = evaluate(pipeline, examples).items
    pipeline.config = before
    concepts = [example.id.rpartition("/")[2] for example in examples]
    return {"concepts": concepts, **{metric: items[metric].values.tolist() for metric in METRICS}}


def run_style(held: str, settings: Sequence[str]) -> dict[str, Any]:
    """Train without one style and measure on it, beside the starter."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        split_by_style(held, place / "data")
        data = (f"data.path={place / 'data'}", f"data.images={DATA}")
        config = override(find_recipe("flickr8k_retrieval"), (*SETTINGS, *data, "test_split=test", *settings))
        start = time.monotonic()
        finished = run_stages(config, place / "run", False, Console(stderr=True))
        seconds = time.monotonic() - start
        assert finished is not None
        trained, starter = chiasm.load(place / "run").pipeline, chiasm.load("starter").pipeline
        return {
            "seconds": round(seconds, 1),
            "trained": {split: outcomes(trained, config.data, split) for split in ("test", "seen")},
            "starter": {"test": outcomes(starter, config.data, "test")},
        }


def together(found: dict[str, dict[str, Any]], who: str, split: str) -> dict[str, Any]:
    """Scores of each style, and of all: a concept's pictures stand and fall together."""
    by_style = {
        style: {metric: proportion(np.array(one[who][split][metric])).as_dict() for metric in METRICS}
        for style, one in found.items()
    }
    parts = [one[who][split] for one in found.values()]
    concepts = np.unique([name for part in parts for name in part["concepts"]], return_inverse=True)[1]
    pooled = {
        metric: proportion(np.concatenate([part[metric] for part in parts]), concepts).as_dict() for metric in METRICS
    }
    candidates = float(np.mean([len(part["concepts"]) for part in parts]))
    chance = {metric: float(metric.partition("@")[2]) / candidates for metric in METRICS}
    return {"all": pooled, "chance": chance, "candidates": candidates, "styles": by_style}


def main() -> None:
    """Run what is missing, then print and store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--styles", default=",".join(STYLES))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="folder of finished styles, to go on with")
    parser.add_argument("--name", default="emoji_styles", help="name of the result")
    typed = parser.parse_args()
    out = typed.out or Path(tempfile.mkdtemp())
    found: dict[str, dict[str, Any]] = {}
    for style in typed.styles.split(","):
        kept = out / f"{style}.json"
        if not kept.exists():
            write_json(kept, run_style(style, typed.set))
        found[style] = read_json(kept, "a finished style")
    told = (("trained", "test"), ("starter", "test"), ("trained", "seen"))
    scores: dict[str, Any] = {"trained": {}, "starter": {}}
    for who, split in told:
        scores[who][split] = together(found, who, split)
        for metric in METRICS:
            one, chance = scores[who][split]["all"][metric], scores[who][split]["chance"][metric]
            interval = f"{one['low']:.3f}-{one['high']:.3f}"
            print(f"{who} {split} {metric}: {one['value']:.3f} ({interval}), n {one['n']}, chance {chance:.3f}")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": date,
        "command": " ".join(["python benchmarks/emoji_styles.py", *(f"--set {one}" for one in typed.set)]),
        "seed": 0,
        "seconds": {style: one["seconds"] for style, one in found.items()},
        **scores,
        "environment": environment(),
    }
    write_json(HERE / "results" / f"{date}-{typed.name}.json", result)


if __name__ == "__main__":
    main()
