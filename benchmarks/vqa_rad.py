"""VQA-RAD, cross-validated by picture: `python benchmarks/vqa_rad.py [--set KEY=VALUE ...] [--seed 0] [--folds 5]`.

The recipe `vqa`, trained once a fold on the training part of VQA-RAD (`CHIASM_DATA`, default ../shared/data); every
picture is answered about by the one model that has never seen it. One picture in ten of those that are trained on is
the fold's own validation: it picks the weights and fits the temperature, and settings were chosen on it alone. Prints
closed, open and all answers with their 95 % intervals (pictures drawn), and beside them the majority answer of the
training part and the same models with the wrong picture, without one, and without the question. Writes
benchmarks/results/DATE-vqa_rad.json, if nothing is set. Folds that are done are kept in --out and not trained again.
"""

import argparse
import datetime
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import SplitResult, open_prepared
from chiasm.metrics.calibration import expected_calibration_error
from chiasm.metrics.classic import accuracy
from chiasm.recipes.table import find_recipe
from chiasm.serve.engine import load
from chiasm.tasks.scoring import Answered
from chiasm.train.config import RunConfig
from chiasm.train.run import run

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", HERE.parent.parent / "shared" / "data")) / "vqa_rad"
SETTINGS = (
    "train.precision=fp32",
    "train.batch_size=16",
    "train.lr=1e-3",
    "train.epochs=20",
    "train.patience=0",
    "model.image.grid=false",
    "model.text.kind=minilm",
    "model.text.frozen=true",
    "model.fusion=bilinear",
    "model.dropout=0.5",
)
"""What the recipe is changed by for 250 radiographs: with so few, both towers stay as they are, and a question and a
picture meet as one vector each (docs/log.md)."""
KINDS = ("CLOSED", "OPEN")
FLOORS = {"CLOSED": 0.66, "all": 0.60}
"""Closed: bilinear attention without medical pre-training on the official split, which shares pictures between
training and test. All: the aim."""


def fold_config(assignments: Sequence[str], seed: int, fold: str) -> RunConfig:
    """The run of one fold."""
    own = [f"data.path={DATA}", f"data.fold={fold}", "test_split=held_out", f"seed={seed}"]
    return override(find_recipe("vqa", files=True), [*SETTINGS, *own, *assignments])


def rows_of(answered: Sequence[Answered], ids: Sequence[str]) -> list[dict[str, Any]]:
    """One row a question."""
    return [
        {"picture": ids[one.of], "kind": one.question.kind, "right": one.right, "sure": one.prediction.confidence}
        for one in answered
    ]


def majority_rows(config: RunConfig, answered: Sequence[Answered], ids: Sequence[str]) -> list[dict[str, Any]]:
    """What the training part's commonest answer to questions of each kind gets."""
    training = open_dataset(config.data, "train", config.seed)
    counts: dict[str, Counter[str]] = {}
    for number in range(len(training)):
        for question in training.example(number).questions:
            counts.setdefault(question.kind, Counter())[question.answers[0].casefold()] += 1
    usual = {kind: some.most_common(1)[0][0] for kind, some in counts.items()}
    return [
        {"picture": ids[one.of], "kind": kind, "right": float(usual.get(kind) == one.question.answers[0].casefold())}
        for one in answered
        for kind in [one.question.kind]
    ]


def run_fold(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train one fold; rows of every view of the part that was held out, and of the fold's validation."""
    finished = run(config, folder, (folder / "checkpoints").exists(), Console(stderr=True))
    assert finished is not None, "one process"
    measured: SplitResult = finished.measured
    ids = [example.id for example in measured.examples]
    views = {"seen": measured.outcome, **measured.blind}
    pipeline = load(folder).pipeline
    validation, _ = open_prepared(pipeline, "val", Console(quiet=True))
    check_apart(config, ids, [example.id for example in validation])
    own = evaluate(pipeline, validation).answered
    return {
        "trained_s": round(finished.facts.training_time_s, 1),
        "steps": finished.facts.steps,
        **{view: rows_of(outcome.answered, ids) for view, outcome in views.items()},
        "majority": majority_rows(config, measured.outcome.answered, ids),
        "validation": rows_of(own, [example.id for example in validation]),
    }


def check_apart(config: RunConfig, held_out: Sequence[str], validation: Sequence[str]) -> None:
    """No picture in two of training, validation and the part that is held out, by name and by content."""
    parts = [open_dataset(config.data, split, config.seed) for split in ("train", "val", "held_out")]
    keys = [{part.example(number).inputs["image"].content_key() for number in range(len(part))} for part in parts]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2], "a picture on both sides"
    assert not set(held_out) & set(validation)


def scores(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Closed, open and all, with intervals over pictures."""
    picture = {name: number for number, name in enumerate(dict.fromkeys(row["picture"] for row in rows))}
    found = {}
    for kind in (*KINDS, "all"):
        chosen = [row for row in rows if kind in (row["kind"], "all")]
        of = np.array([picture[row["picture"]] for row in chosen])
        found[kind] = accuracy(np.array([row["right"] for row in chosen]), of, seed).as_dict()
    return found


def main() -> None:
    """Train all folds, put their answers together, print and write."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--folds", type=int, default=5)
    words.add_argument("--only", type=int, help="train this fold alone, to try settings; writes no result")
    words.add_argument("--out", type=Path, default=HERE.parent / "runs" / "vqa_rad")
    words.add_argument(
        "--json", type=Path, default=None, help="where the result goes; without, that of plain settings is kept"
    )
    given = words.parse_args()
    folds = [given.only] if given.only else range(1, given.folds + 1)
    parts = []
    for number in folds:
        folder = given.out / f"fold-{number}"
        kept = folder.with_suffix(".json")
        if not kept.exists():
            write_json(kept, run_fold(fold_config(given.set, given.seed, f"{number}/{given.folds}"), folder))
        parts.append(read_json(kept, "a fold's answers"))
    pooled = {
        view: [row for part in parts for row in part[view]] for view in parts[0] if isinstance(parts[0][view], list)
    }
    table = {view: scores(rows, given.seed) for view, rows in pooled.items()}
    sure = np.array([row["sure"] for row in pooled["seen"]])
    error = expected_calibration_error(sure, np.array([row["right"] for row in pooled["seen"]]) >= 0.5)
    print(f"{'':>12}" + "".join(f"{kind:>30}" for kind in (*KINDS, "all")))
    for view, found in table.items():
        cells = (f"{one['value']:.3f} ({one['low']:.3f}-{one['high']:.3f}) n {one['n']:,}" for one in found.values())
        print(f"{view:>12}" + "".join(f"{cell:>30}" for cell in cells))
    print(f"calibration error of the answers {error.value:.3f} ({error.low:.3f}-{error.high:.3f})")
    print("seconds a fold:", *(part["trained_s"] for part in parts))
    if given.only or (given.set and given.json is None):
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": today,
        "command": " ".join(["python benchmarks/vqa_rad.py", *(f"--set {one}" for one in given.set)]),
        "seed": given.seed,
        "folds": given.folds,
        "scores": table,
    }
    result |= {"vqa_accuracy_ECE": error.as_dict(), "trained_s": [part["trained_s"] for part in parts]}
    target = given.json or HERE / "results" / f"{today}-vqa_rad.json"
    write_json(target, {**result, "floors": FLOORS, "environment": environment()})
    print(target)


if __name__ == "__main__":
    main()
