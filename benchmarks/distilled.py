"""Half of the fusion blocks, taught by the whole: score, speed and size beside the run that it came from.

    python benchmarks/distilled.py --teacher-s 420 --student-s 240

A model of the recipe `demo` for questions, with six fusion blocks in place of its own, is trained; `layers50` takes
away the half of its blocks whose Taylor score is least; and what is left goes on learning from the data and from the
whole model's answers (`train.teacher`, Hinton et al. 2015). With --scratch-s a model of that depth from random weights
stands beside them. Scores are of the same questions about 500 test scenes; times of interleaved rounds of one process.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import chiasm
from chiasm.compress.gate import AS_IT_WAS, Candidate, judge
from chiasm.core.device import environment, pick_device
from chiasm.core.files import write_json
from chiasm.evaluate.measure import open_prepared
from chiasm.pipeline.interop.importing import open_pipeline
from chiasm.recipes.table import find_recipe
from chiasm.report.compression import cells
from chiasm.train.config import RunConfig
from chiasm.train.run import run

BLOCKS, WIDTH = 6, 128
DISTIL = 0.5
"""Share of the teacher's answers in the student's loss."""


def config_for(limit_s: float, blocks: int = BLOCKS) -> RunConfig:
    """The demo's data, loop and towers, for questions alone, with more and wider fusion blocks."""
    demo = find_recipe("demo")
    model = replace(demo.model, dim=WIDTH, heads=4, fusion_layers=blocks, fusion_mlp_ratio=4.0)
    train = replace(demo.train, limit_s=limit_s, lr=1e-3)
    return replace(demo, recipe="", model=model, tasks={"vqa": demo.tasks["vqa"]}, train=train)


def main() -> None:
    """Train, prune, teach, and print what the gate measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher-s", type=float, default=420.0)
    parser.add_argument("--student-s", type=float, default=240.0)
    parser.add_argument("--scratch-s", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    typed = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        run(config_for(typed.teacher_s), place / "whole", False, console)
        chiasm.compress(place / "whole", place / "half", "layers50", max_loss=100)
        taught = config_for(typed.student_s)
        tasks = {"vqa": replace(taught.tasks["vqa"], distil=DISTIL)}
        train = replace(taught.train, teacher=str(place / "whole"))
        run(replace(taught, tasks=tasks, train=train, init_from=str(place / "half")), place / "taught", False, console)
        names = ["whole", "half", "taught"]
        if typed.scratch_s:
            names.append("scratch")
            run(config_for(typed.scratch_s, BLOCKS // 2), place / "scratch", False, console)
        candidates: list[Candidate] = []
        for name in names:
            pipeline = open_pipeline(place / name, pick_device())
            examples, _ = open_prepared(pipeline, "test", Console(quiet=True))
            candidates.append(Candidate(name if candidates else AS_IT_WAS, pipeline, place / name, examples))
        found = judge(candidates[0], candidates[1:], max_loss=2.0)
    for one in found:
        faster = {count: found[0].latency_s[count][0] / own[0] for count, own in one.latency_s.items()}
        print(", ".join(f"{key}: {value}" for key, value in cells(one, found[0]).items()))
        print(
            f"  times as fast, by requests at once: { ({count: round(value, 2) for count, value in faster.items()}) }"
        )
    if typed.json:
        rows = [one.as_dict() for one in found]
        write_json(typed.json, {"variants": rows, "environment": environment(), "split": "test"})


if __name__ == "__main__":
    main()
