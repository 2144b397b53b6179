"""Is the best of N better than one? Ranked by a run of yours, judged by another or by the detector of scenes.

    python benchmarks/best_of.py RUN --rank-by RANKER [--judge-by JUDGE] [--n 8] [--captions 200] [--guidance 1]

Draws N images of each caption, and compares the one that RANKER puts first with the first drawn one, on the same
captions: the share of whole images that are true where the data have a detector, else the judge's score. A judge with
the weights of the ranking model is refused.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from chiasm.core.device import environment
from chiasm.core.errors import InputError
from chiasm.core.files import write_json
from chiasm.core.types import Depictable, Example, Prediction
from chiasm.data.dataset import evenly_spread, examples_of
from chiasm.data.opening import open_dataset
from chiasm.metrics.intervals import proportion
from chiasm.metrics.paired import paired_difference
from chiasm.serve.drawings import Wish, best, check_apart
from chiasm.serve.engine import Model, load


def judged(examples: Sequence[Example], found: Sequence[Prediction], judge: Model | None) -> np.ndarray:
    """Whether each image is true to its example's caption, or how well it fits in the judge's eyes: float64 [n]."""
    images = [one.image for one in found if one.image is not None]
    if judge is not None:
        matches = judge.match(images, [one.answer for one in found])
        return np.array([one.similarity if one.probability is None else one.probability for one in matches])
    values = []
    for example, image in zip(examples, images, strict=True):
        if not isinstance(example.truth, Depictable):
            raise InputError("images without an exact judge", "a judge", "--judge-by RUN, another than ranks")
        shared, either = example.truth.overlap(image)
        values.append(float(shared == either))
    return np.array(values)


def main() -> None:
    """Print both scores and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rank-by", type=Path, required=True)
    parser.add_argument("--judge-by", type=Path)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--split", default="test")
    parser.add_argument("--guidance", type=float, help="the run's own if not given")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model, ranker = load(given.run), load(given.rank_by)
    judge = None if given.judge_by is None else load(given.judge_by)
    if judge is not None:
        check_apart(ranker, judge)
    config, sampling = model.pipeline.config, model.sampling(guidance=given.guidance)
    every = examples_of(open_dataset(config.data, given.split, config.seed))
    chosen = [every[place] for place in evenly_spread(len(every), given.captions)]
    examples = [example for example in chosen if example.captions]
    first, top = list[Prediction](), list[Prediction]()
    for number, example in enumerate(examples):
        caption = example.captions[number % len(example.captions)].text
        drawn = model.drawings([caption], Wish(n=given.n, sampling=sampling))
        first.append(drawn[0])
        top += best(drawn, ranker, given.n, 1)
    one, many = judged(examples, first, judge), judged(examples, top, judge)
    found = paired_difference(many, one)
    name = "whole image true" if judge is None else "the judge's score"
    print(f"{len(examples)} captions of {given.split}, {name}")
    print(f"  one image   {one.mean():.3f}")
    print(f"  best of {given.n:<3} {many.mean():.3f}")
    print(f"  difference  {found.difference:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f})")
    if given.json:
        scores = {"one": proportion(one), "best": proportion(many)} if judge is None else {}
        metrics = {key: score.as_dict() for key, score in scores.items()}
        write_json(
            given.json, {"metrics": metrics, "difference": asdict(found), "n": given.n, "environment": environment()}
        )


if __name__ == "__main__":
    main()
