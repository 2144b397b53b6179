"""What a second look brings: `python benchmarks/reranking.py FIRST SECOND DATA [--split S] [--queries N] [--looked N]`.

For a sample of captions, the photos nearest by the vectors of the run FIRST are looked at again by the run SECOND, with
its matching or its captions. Prints R@1, R@5 and R@10 of the first look, of the second alone, and of both together, as
`chiasm search --rerank` orders; and the paired difference of both together from the first.

Where SECOND comes from the recipe `reranking`, it is FIRST too. What it costs: `benchmarks/index_photos.py`.
"""

import argparse
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

import chiasm
from chiasm.core.config import of_kind
from chiasm.core.types import Example, Tokens
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.metrics.intervals import proportion
from chiasm.metrics.paired import paired_difference
from chiasm.serve.engine import ENCODE_AT_ONCE, Model
from chiasm.serve.index.rerank import LOOKED_AT, evidence

DEPTHS = (1, 5, 10)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""What the second look's logit is multiplied by: 1 is the rule, the others say whether it weighs too much."""
NOT_SEEN = 10**6


def encoded(model: Model, examples: list[Example]) -> Tokens:
    """All photos as the second model reads them, kept: float [n, l, d] and so on."""
    pictures = [example.inputs["image"] for example in examples]
    starts = range(0, len(pictures), ENCODE_AT_ONCE)
    return Tokens.joined([model.pipeline.encode_images(pictures[start : start + ENCODE_AT_ONCE]) for start in starts])


def rank_of(order: npt.NDArray[np.int64], right: int) -> int:
    """Place of the right photo in an order, from 0; `NOT_SEEN` where it was not looked at."""
    found = np.flatnonzero(order == right)
    return int(found[0]) if len(found) else NOT_SEEN


def ranks(
    first: Model, second: Model, examples: list[Example], queries: list[tuple[int, str]], looked: int
) -> dict[str, list[int]]:
    """Name of the order -> the right photo's rank for each query (number of its photo, words)."""
    scale = first.pipeline.model.logit_scale
    assert scale is not None, "FIRST has a contrast"
    photos = first.encode_image([example.inputs["image"].path for example in examples])
    words = first.encode_text([text for _, text in queries])
    tokens, found = encoded(second, examples), dict[str, list[int]]()
    for number, (right, text) in enumerate(queries):
        cosines = photos @ words[number]
        near = np.argsort(-cosines, kind="stable")[:looked]
        told = np.asarray(evidence(second, text, tokens.rows(torch.as_tensor(near, device=tokens.values.device))))
        logits = scale.exp().item() * cosines[near]
        orders = {f"both, weight {weight:g}": near[np.argsort(-(logits + weight * told))] for weight in WEIGHTS}
        orders["second look alone"] = near[np.argsort(-told)]
        for name, order in orders.items():
            found.setdefault(name, []).append(rank_of(order, right))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--looked", type=int, default=LOOKED_AT)
    typed = parser.parse_args()
    first, second = chiasm.load(typed.first), chiasm.load(typed.second)
    config = replace(
        of_kind(first.pipeline.config.data, FilesConfig, "source"), path=typed.data, format="auto", images=""
    )
    dataset = open_dataset(config, typed.split, 0)
    examples = [dataset.example(number) for number in range(len(dataset))]
    every = [(of, caption.text) for of, example in enumerate(examples) for caption in example.captions]
    queries = [every[int(one)] for one in np.linspace(0, len(every) - 1, min(typed.queries, len(every)))]
    found = ranks(first, second, examples, queries, typed.looked)
    photo_of = [of for of, _ in queries]
    print(f"{len(queries)} captions, {len(examples)} photos, the nearest {typed.looked} looked at twice")
    print("weight 0 is the first look, weight 1 what the search does; R@k with 95 % intervals that draw photos")
    for name, places in found.items():
        scores = [proportion(np.asarray(places) < depth, photo_of) for depth in DEPTHS]
        told = ", ".join(
            f"R@{depth} {score.value:.4f} ({score.low:.3f}-{score.high:.3f})"
            for depth, score in zip(DEPTHS, scores, strict=True)
        )
        print(f"{name:<18} {told}")
    for depth in DEPTHS:
        after, before = (np.asarray(found[f"both, weight {weight}"]) < depth for weight in (1, 0))
        paired = paired_difference(after, before, photo_of)
        interval = f"({paired.low:+.4f} to {paired.high:+.4f}), p {paired.p_value:.4f}"
        print(f"R@{depth}, weight 1 less weight 0: {paired.difference:+.4f} {interval}")


if __name__ == "__main__":
    main()
