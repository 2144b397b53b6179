"""Timing on a machine that others use too: candidates interleaved, medians, and only ratios to a baseline."""

import statistics
import time
from collections.abc import Callable, Mapping

ROUNDS = 9


def compare(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, float]]:
    """Time each candidate once a round, in turn.

    Args:
        candidates: name -> what is timed; called once before.
        rounds: times that each is timed.
        clock: seconds; `time.process_time` of one thread holds where other programs take most of the machine.

    Returns:
        name -> (median milliseconds, median over rounds of the ratio to the first candidate in the same round).
    """
    for candidate in candidates.values():
        candidate()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            start = clock()
            candidate()
            times[name].append((clock() - start) * 1000)
    first = next(iter(times.values()))
    return {
        name: (
            statistics.median(values),
            statistics.median(value / base for value, base in zip(values, first, strict=True)),
        )
        for name, values in times.items()
    }


def show(title: str, found: Mapping[str, tuple[float, float]]) -> None:
    """Print one comparison."""
    print(title)
    for name, (milliseconds, ratio) in found.items():
        print(f"  {name:<28} {milliseconds:9.2f} ms   {ratio:6.2f} x the first")
