"""Two runs on the same items: which metrics are compared, in which direction, and what is refused."""

import io

import numpy as np
import pytest
from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.evaluate.comparison import paired_differences
from chiasm.evaluate.metric_row import MetricRow
from chiasm.metrics.captions import bleu_of_sums, caption_statistics
from chiasm.report.tables import difference_table
from chiasm.tasks.scoring import Items, Outcome

CLUSTERS = np.arange(40) // 2


def outcome(**items: np.ndarray) -> Outcome:
    return Outcome(items={name: Items(values, CLUSTERS[: len(values)]) for name, values in items.items()})


def test_direction_and_order() -> None:
    """Guards against second less first, and metrics of one run only."""
    better, worse = np.ones(40), np.arange(40) % 4 == 0
    found = paired_differences(outcome(b=better, a=better, c=better), outcome(a=worse.astype(float), b=better))
    assert list(found) == ["b", "a"]
    assert found["a"].difference == pytest.approx(0.75) and found["b"].difference == 0
    assert found["a"].n == 40 and found["a"].p_value < 0.01 and found["b"].p_value == 1


def test_bleu_is_compared_as_a_corpus_score() -> None:
    """Guards against the mean of statistics, whose first column alone is no score at all."""
    references = [[f"a red circle is left of a blue square number {i}".split()] for i in range(20)]
    close = caption_statistics([r[0][:-1] for r in references], references).bleu
    far = caption_statistics([r[0][::-1] for r in references], references).bleu
    found = paired_differences(outcome(Bleu_4=close), outcome(Bleu_4=far))["Bleu_4"]
    expected = bleu_of_sums(close.sum(0))[3] - bleu_of_sums(far.sum(0))[3]
    assert found.difference == pytest.approx(expected) and 0.5 < expected < 1


def test_other_items_are_refused() -> None:
    """Guards against a paired test of outcomes that belong to different pictures."""
    with pytest.raises(InputError, match="40 items of one run and 38 of the other: their splits differ"):
        paired_differences(outcome(a=np.ones(40)), outcome(a=np.ones(38)))
    moved = Outcome(items={"a": Items(np.ones(40), CLUSTERS[::-1])})
    with pytest.raises(InputError, match="same order"):
        paired_differences(outcome(a=np.ones(40)), moved)
    with pytest.raises(InputError, match="a metric in common"):
        paired_differences(outcome(a=np.ones(40)), outcome(b=np.ones(40)))


def test_table() -> None:
    """Guards against a number that is no share shown in points, and a sign that is lost."""
    values = np.linspace(0, 1, 40)
    found = paired_differences(outcome(CIDEr=values, acc=values), outcome(CIDEr=values + 0.5, acc=values + 0.5))
    score = Score(0.5, 0.4, 0.6, 40)
    rows = [MetricRow("acc", score), MetricRow("other", score), MetricRow("CIDEr", score, is_share=False)]
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(difference_table(rows, found))
    lines = [line.split() for line in buffer.getvalue().splitlines()]
    assert ["acc", "-50.0", "-50.0", "to", "-50.0", "0.0005", "40"] in lines
    assert ["CIDEr", "-0.500", "-0.500", "to", "-0.500", "0.0005", "40"] in lines
    assert "other" not in buffer.getvalue()
