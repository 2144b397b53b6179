"""Are drawn images worth anything as training data? A model that answers questions, trained on real and drawn scenes.

    python benchmarks/generated_images.py runs/dalle --real 100,1000 --drawn 4000

The sizes and the loop of the recipe `demo` (task vqa alone) are trained from scratch for equal steps on so many real
scenes, on these and drawn ones in equal shares, and on drawn ones alone. A drawn image has the caption and the
questions of a scene that neither the run nor a real set has, so what is drawn wrongly is learned wrongly. All are
measured on the same real scenes, which nothing was chosen on; another 200 choose the weights.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.core.random import counter_seed
from chiasm.core.types import Example
from chiasm.data.config import OtherDataConfig
from chiasm.data.files import FilesConfig
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.data.generated.scene_language import caption, questions
from chiasm.data.generated.scenes import scene_at
from chiasm.data.png import as_png
from chiasm.evaluate.measure import ProgressBars
from chiasm.metrics.paired import paired_difference
from chiasm.recipes.table import find_recipe
from chiasm.serve.drawings import Wish
from chiasm.serve.drawn_data import SPLIT, TABLE, Wanted, write_drawn
from chiasm.serve.engine import load
from chiasm.train.config import RunConfig
from chiasm.train.run import run

QUESTIONS = 12
"""Questions of each scene, the same in every epoch."""
BEYOND = 1 << 20
"""First scene of the training split that is drawn: far behind those that any run of the recipes had."""
METRIC = "vqa_accuracy"


def rows_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Caption and questions of scenes, as rows of a table."""
    return [
        {
            "caption": one.captions[0].text,
            "questions": [{"question": q.text, "answer": q.answers[0], "kind": q.kind} for q in one.questions],
        }
        for one in examples
    ]


def write_real(folder: Path, split: str, count: int) -> None:
    """The first scenes of a split as a folder with a table."""
    config = ScenesConfig(train_pictures=count, eval_pictures=count, questions_per_picture=QUESTIONS)
    found = SceneDataset(split, config, 0)
    examples = [found.example(number) for number in range(count)]
    place = folder / split
    place.mkdir(parents=True)
    lines = []
    for number, (one, row) in enumerate(zip(examples, rows_of(examples), strict=True)):
        (place / f"{number:06}.png").write_bytes(as_png(one.inputs["image"].load()))
        lines.append(json.dumps({"file_name": f"{number:06}.png", **row}) + "\n")
    (place / TABLE).write_text("".join(lines), encoding="utf-8")


def wanted(count: int) -> list[Wanted]:
    """Captions and questions of scenes that nothing was trained on."""
    scenes = [scene_at(SPLIT, BEYOND + number, 0) for number in range(count)]
    found = []
    for number, scene in enumerate(scenes):
        rng = random.Random(counter_seed("generated images", number))
        asked = questions(scene, QUESTIONS, rng, ("en",))
        rows = [{"question": q.text, "answer": q.answers[0], "kind": q.kind} for q in asked]
        found.append(Wanted(caption(scene, "en").text, {"questions": rows}))
    return found


def config_of(real: Path, drawn: Path | None, steps: int, sizes: tuple[int, int]) -> RunConfig:
    """The demo's model on files; real and drawn ones have equal shares of an epoch."""
    demo = find_recipe("demo")
    others = {}
    if drawn is not None:
        others["drawn"] = OtherDataConfig(path=str(drawn), weight=sizes[0] / sizes[1])
    data = FilesConfig(path=str(real), languages=("en",), others=others)
    train = replace(demo.train, steps=steps, limit_s=0.0, validate_every=max(1, steps // 5))
    return replace(demo, data=data, tasks={"vqa": demo.tasks["vqa"]}, train=train, recipe="")


def main() -> None:
    """Draw, train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="of the recipe dalle on scenes")
    parser.add_argument("--real", default="100,1000", help="numbers of real scenes, with commas between them")
    parser.add_argument("--drawn", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tested", type=int, default=500)
    parser.add_argument("--json", type=Path)
    typed = parser.parse_args()
    amounts = [int(one) for one in typed.real.split(",")]
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    right: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        bars = ProgressBars(console)
        write_drawn(load(typed.run), wanted(typed.drawn), Wish(), place / "drawn", bars)
        bars.close()
        write_real(place / "eval", "val", 200)
        write_real(place / "eval", "test", typed.tested)
        kinds = [(f"{n:,} real", n, False) for n in amounts] + [(f"{n:,} real, drawn", n, True) for n in amounts]
        for name, amount, mixes in [*kinds, (f"{typed.drawn:,} drawn", 0, True)]:
            folder = place / name.replace(" ", "_").replace(",", "")
            folder.mkdir()
            for split in ("val", "test"):
                shutil.copytree(place / "eval" / split, folder / split)
            if amount:
                write_real(folder, "train", amount)
            else:
                shutil.copytree(place / "drawn" / SPLIT, folder / "train")
            drawn = place / "drawn" if amount and mixes else None
            config = config_of(folder, drawn, typed.steps, (amount, typed.drawn))
            finished = run(config, place / "runs" / folder.name, False, console)
            assert finished is not None, "one process"
            outcome = finished.measured.outcome
            right[name] = np.array([one.right for one in outcome.answered])
            shuffled = finished.measured.blind["shuffled"].scores[METRIC].value
            rows.append({"data": name, METRIC: outcome.scores[METRIC].as_dict(), "shuffled": shuffled})
            print(f"{name:24} {outcome.scores[METRIC].value:.3f}  shuffled {shuffled:.3f}", flush=True)
        of = np.array([one.of for one in outcome.answered])
    gains = {}
    for amount in amounts:
        before, after = right[f"{amount:,} real"], right[f"{amount:,} real, drawn"]
        found = paired_difference(after, before, of)
        gains[str(amount)] = asdict(found)
        print(f"drawn beside {amount:,} real: {found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})")
    if typed.json:
        write_json(typed.json, {"rows": rows, "gains": gains, "steps": typed.steps, "environment": environment()})


if __name__ == "__main__":
    main()
