"""The share of the starter's space that validation chooses."""

import io

import pytest
from rich.console import Console
from torch import nn

from chiasm.core.types import Score
from chiasm.models.projection import BesideClasses, Projection
from chiasm.train.class_share import SHARES, choose_class_share, training_share


def score(value: float) -> Score:
    return Score(value, value - 0.1, value + 0.1, 100)


def model() -> nn.Module:
    both = nn.Module()
    both.image_projection = BesideClasses(nn.Identity(), Projection(3, 3))
    both.text_projection = BesideClasses(nn.Identity(), Projection(3, 3))
    return both


def chosen(values: dict[str, dict[float, float]], metrics: tuple[str, ...]) -> tuple[float, str, bool]:
    one = model()

    def validate() -> dict[str, Score]:
        share = round(float(one.image_projection.share), 6)
        return {name: score(by_share[share]) for name, by_share in values.items()}

    found = choose_class_share(one, metrics, validate, Console(file=io.StringIO()))
    assert float(one.image_projection.share) == float(one.text_projection.share) == pytest.approx(found.share)
    assert set(found.rows) == set(SHARES)
    return found.share, found.metric, found.keeps_start


def test_the_best_share_is_taken() -> None:
    """Guards against the last share that was tried, and against the worst."""
    peak = {share: 1 - abs(share - 0.5) for share in SHARES}
    assert chosen({"R": peak}, ("R",)) == (0.5, "R", False)


def test_of_equals_the_start_is_kept() -> None:
    """Guards against trained weights that are saved although they are no better."""
    assert chosen({"R": dict.fromkeys(SHARES, 0.4)}, ("R",)) == (1.0, "R", True)


def test_a_metric_that_the_share_does_not_move_decides_nothing() -> None:
    """Guards against answers to questions, which no share touches, that decide on the search."""
    peak = {share: 1 - abs(share - 0.3) for share in SHARES}
    assert chosen({"accuracy": dict.fromkeys(SHARES, 0.4), "R": peak}, ("accuracy", "R")) == (0.3, "R", False)


def test_the_few_are_trained_beside_the_classes_and_the_many_alone() -> None:
    """Guards against a share that keeps six thousand pictures from being learned (R@10 0.53 for 0.62)."""
    assert [training_share(count) for count in (2, 499, 500, 1999, 2000, 6000)] == [0.7, 0.7, 0.5, 0.5, 0, 0]
