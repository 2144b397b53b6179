"""Paired comparison of two runs on the same items: difference of each metric with interval and p-value."""

import numpy as np

from chiasm.core.errors import InputError
from chiasm.metrics.captions import bleu_of_sums
from chiasm.metrics.paired import PairedResult, paired_corpus_difference, paired_difference
from chiasm.tasks.scoring import Items, Outcome


def paired_differences(first: Outcome, second: Outcome, seed: int = 0) -> dict[str, PairedResult]:
    """Compare two runs on every metric whose items both kept.

    Args:
        first: outcome of one run on a split, in the view "seen".
        second: outcome of the other run on the same examples.
        seed: of the draws for interval and test.

    Returns:
        Metric name -> first less second, in the order of `first`.

    Raises:
        InputError: no metric in common, or items that are not the same.
    """
    shared = [name for name in first.items if name in second.items]
    if not shared:
        raise InputError(
            f"one run is scored on {', '.join(first.items) or 'nothing'}, "
            f"the other on {', '.join(second.items) or 'nothing'}",
            "two runs with a metric in common",
            "compare runs that were trained for the same task",
        )
    return {name: item_difference(name, first.items[name], second.items[name], seed) for name in shared}


def item_difference(name: str, first: Items, second: Items, seed: int = 0) -> PairedResult:
    """Compare the items of one metric: first less second, as `paired_differences` does for all.

    Raises:
        InputError: items that are not the same.
    """
    if first.values.shape != second.values.shape or not np.array_equal(first.clusters, second.clusters):
        raise InputError(
            f"{name} rests on {len(first.values)} items of one run and {len(second.values)} of the other: "
            "their splits differ",
            "the same items in the same order",
            "give both runs the same data, with --data and --split",
        )
    if name == "Bleu_4":
        return paired_corpus_difference(
            first.values, second.values, lambda sums: bleu_of_sums(sums)[..., 3], first.clusters, seed
        )
    return paired_difference(first.values, second.values, first.clusters, seed)
