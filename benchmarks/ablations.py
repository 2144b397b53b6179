"""Does a choice help? Two arms of a recipe, some seeds each: `python benchmarks/ablations.py NAME [SEEDS]`.

Both arms have the same data, steps and seeds and differ in the named keys alone. Prints each arm's mean and the mean
difference over seeds with its 95 % interval (Student's t), and keeps every seed's score in
benchmarks/results/ablation-NAME.json; a seed that is there with the same settings is not run again. SEEDS is how many,
3 if not given; say it before looking, for an interval that is grown until it pleases is none. The folder with Flickr8k
is found through the environment variable CHIASM_DATA (default: ../shared/data). A metric after "pre_training/" is that
of the recipe's first stage.
"""

import os
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import TaskConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.train.stages import run_stages

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data"))
T_95 = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Seeds -> Student's t at 97.5 % with one degree of freedom fewer."""


class Ablation(NamedTuple):
    """A recipe with settings that both arms share, and each arm's own."""

    recipe: str
    shared: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    on_flickr8k: bool = False
    tasks: dict[str, TaskConfig] | None = None
    """The last stage's, in the place of the recipe's own."""


STAGE = "pre_training"
SHORT = (
    "train.precision=fp32",
    "train.steps=300",
    "train.batch_size=32",
    f"stages.{STAGE}.train.precision=fp32",
    f"stages.{STAGE}.train.steps=300",
    f"stages.{STAGE}.train.batch_size=32",
)
NEGATIVES = {"random": (f"stages.{STAGE}.tasks.matching.negatives=random",), "hard": tuple[str, ...]()}
RECALLS = ("image_to_text_R@1", "text_to_image_R@1")
ABLATIONS = {
    "matching": Ablation(
        "visualbert",
        SHORT,
        {"MLM": ("stages.pre_training.tasks.matching.weight=0",), "ITM + MLM": ()},
        ("vqa_accuracy",),
    ),
    # What both know after the same pre-training, asked by a short training for matching, as UNITER asks by retrieval
    # (Chen et al. 2020, table 2).
    "matching_transfer": Ablation(
        "visualbert",
        (*SHORT, "train.steps=60"),
        {"MLM": ("stages.pre_training.tasks.matching.weight=0",), "ITM + MLM": ()},
        ("matching_accuracy",),
        tasks={"matching": MatchingConfig(negatives="random")},
    ),
    "negatives": Ablation(
        "albef",
        SHORT,
        NEGATIVES,
        ("vqa_accuracy",),
    ),
    # The first stage alone: what the two have learned to tell apart when it ends.
    "hard_pairs": Ablation(
        "albef",
        (*SHORT, "train.steps=2"),
        NEGATIVES,
        (f"{STAGE}/matching_accuracy", f"{STAGE}/matching_hard_accuracy"),
    ),
    # Both arms show each caption 20 times in all; what differs is how many of a photo stand in one batch.
    "positives": Ablation(
        "flickr8k_retrieval",
        ("init_from=",),
        {
            "one": ("tasks.retrieval.captions_per_picture=1", "train.epochs=100"),
            "five": ("tasks.retrieval.captions_per_picture=5", "train.epochs=20"),
        },
        RECALLS,
        True,
    ),
    # Both arms take 220 steps of the same photos; one of the five captions each time, or all.
    "positives_a_step": Ablation(
        "flickr8k_retrieval",
        ("init_from=",),
        {"one": ("tasks.retrieval.captions_per_picture=1",), "five": ("tasks.retrieval.captions_per_picture=5",)},
        RECALLS,
        True,
    ),
}


def score(ablation: Ablation, arm: str, seed: int) -> dict[str, dict[str, Any]]:
    """Train one arm with one seed and return its metrics with intervals over pictures."""
    place = (f"data.path={DATA / 'flickr8k'}",) if ablation.on_flickr8k else ()
    assignments = (*ablation.shared, *place, *ablation.arms[arm], f"seed={seed}")
    recipe = find_recipe(ablation.recipe, files=ablation.on_flickr8k)
    config = override(recipe if ablation.tasks is None else replace(recipe, tasks=ablation.tasks), assignments)
    with tempfile.TemporaryDirectory() as folder:
        finished = run_stages(config, Path(folder) / "run", False, Console(stderr=True))
        assert finished is not None
        last = {name: one.as_dict() for name, one in finished.measured.outcome.scores.items()}
        stage = Path(folder) / "run" / "stages" / STAGE / "results.json"
        first = read_json(stage, "a stage's results")["metrics"] if stage.exists() else {}
    scores = last | {f"{STAGE}/{name}": one for name, one in first.items()}
    return {metric: scores[metric] for metric in ablation.metrics}


def line(metric: str, values: dict[str, list[float]]) -> str:
    """Both means, and the mean difference of seeds with its interval."""
    (first, one), (second, other) = values.items()
    gains = [b - a for a, b in zip(one, other, strict=True)]
    half = T_95[len(gains)] * statistics.stdev(gains) / len(gains) ** 0.5
    gain = statistics.mean(gains)
    return (
        f"{metric}: {first} {statistics.mean(one):.3f}, {second} {statistics.mean(other):.3f}, "
        f"difference {gain:+.3f} ({gain - half:+.3f} to {gain + half:+.3f}), {len(gains)} seeds"
    )


def main() -> None:
    """Run what is missing of the named ablation, keep it, and say what came out."""
    name, seeds = sys.argv[1], range(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    ablation = ABLATIONS[name]
    kept = HERE / "results" / f"ablation-{name}.json"
    settings = {
        "recipe": ablation.recipe,
        "shared": list(ablation.shared),
        "arms": {arm: list(words) for arm, words in ablation.arms.items()},
        **({} if ablation.tasks is None else {"tasks": {name: asdict(one) for name, one in ablation.tasks.items()}}),
    }
    before = read_json(kept, "results") if kept.exists() else {}
    is_same = all(before.get(key) == value for key, value in settings.items())
    found: dict[str, dict[str, Any]] = before["scores"] if is_same else {}
    for seed in seeds:
        for arm in ablation.arms:
            by_seed = found.setdefault(arm, {})
            if str(seed) not in by_seed:
                by_seed[str(seed)] = score(ablation, arm, seed)
                write_json(kept, {**settings, "scores": found, "environment": environment()})
    for metric in ablation.metrics:
        print(line(metric, {arm: [found[arm][str(seed)][metric]["value"] for seed in seeds] for arm in ablation.arms}))


if __name__ == "__main__":
    main()
