"""Does a choice help? Two arms of a recipe, three seeds each: `python benchmarks/ablations.py NAME`.

Both arms have the same data, steps and seeds and differ in the named keys alone. Prints each arm's mean and the mean
difference over seeds with its 95 % interval (Student's t, two degrees of freedom), and keeps every seed's score in
benchmarks/results/ablation-NAME.json; a seed that is there with the same settings is not run again. The folder with
Flickr8k is found through the environment variable CHIASM_DATA (default: ../shared/data). A metric after "pre_training/"
is that of the recipe's first stage.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json
from chiasm.recipes import find_recipe
from chiasm.train.stages import run_stages

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data"))
SEEDS = (0, 1, 2)
T_95 = 4.303
"""Student's t at 97.5 % with two degrees of freedom: three seeds."""


class Ablation(NamedTuple):
    """A recipe with settings that both arms share, and each arm's own."""

    recipe: str
    shared: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    on_flickr8k: bool = False


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
        (),
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
        (),
        {"one": ("tasks.retrieval.captions_per_picture=1",), "five": ("tasks.retrieval.captions_per_picture=5",)},
        RECALLS,
        True,
    ),
}


def score(ablation: Ablation, arm: str, seed: int) -> dict[str, dict[str, Any]]:
    """Train one arm with one seed and return its metrics with intervals over pictures."""
    place = (f"data.path={DATA / 'flickr8k'}",) if ablation.on_flickr8k else ()
    assignments = (*ablation.shared, *place, *ablation.arms[arm], f"seed={seed}")
    config = override(find_recipe(ablation.recipe, files=ablation.on_flickr8k), assignments)
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
    half = T_95 * statistics.stdev(gains) / len(gains) ** 0.5
    gain = statistics.mean(gains)
    return (
        f"{metric}: {first} {statistics.mean(one):.3f}, {second} {statistics.mean(other):.3f}, "
        f"difference {gain:+.3f} ({gain - half:+.3f} to {gain + half:+.3f}), seeds {SEEDS}"
    )


def main() -> None:
    """Run what is missing of the named ablation, keep it, and say what came out."""
    name = sys.argv[1]
    ablation = ABLATIONS[name]
    kept = HERE / "results" / f"ablation-{name}.json"
    settings = {
        "recipe": ablation.recipe,
        "shared": list(ablation.shared),
        "arms": {arm: list(words) for arm, words in ablation.arms.items()},
    }
    before = read_json(kept, "results") if kept.exists() else {}
    is_same = all(before.get(key) == value for key, value in settings.items())
    found: dict[str, dict[str, Any]] = before["scores"] if is_same else {}
    for seed in SEEDS:
        for arm in ablation.arms:
            by_seed = found.setdefault(arm, {})
            if str(seed) not in by_seed:
                by_seed[str(seed)] = score(ablation, arm, seed)
                write_json(kept, {**settings, "scores": found, "environment": environment()})
    for metric in ablation.metrics:
        print(line(metric, {arm: [found[arm][str(seed)][metric]["value"] for seed in SEEDS] for arm in ablation.arms}))


if __name__ == "__main__":
    main()
