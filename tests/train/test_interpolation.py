"""Weights between before and after: exact ends, the right middle, merged matrices, and the choice."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from chiasm.core.types import Score
from chiasm.models.lora import LoraLinear, add_lora, merge_lora
from chiasm.report.forgetting import Mixed
from chiasm.train.interpolation import ALPHAS, choose, interpolate, names_between, set_between


def score(value: float) -> Score:
    return Score(value, value - 0.01, value + 0.01, 100)


def test_ends_are_exact_and_the_middle_is_between() -> None:
    """Guards against shares that are swapped, and ends that rounding moves."""
    torch.manual_seed(0)
    model = nn.Linear(7, 5)
    before = {name: torch.randn_like(value) for name, value in model.named_parameters()}
    after = {name: torch.randn_like(value) for name, value in model.named_parameters()}
    for alpha in ALPHAS:
        set_between(model, before, after, alpha)
        for name, value in model.named_parameters():
            slow = (1 - alpha) * before[name].double() + alpha * after[name].double()
            torch.testing.assert_close(value.detach().double(), slow, atol=1e-6, rtol=0)
            if alpha in (0, 1):
                assert torch.equal(value, (before, after)[int(alpha)][name])


def test_low_rank_changes_are_interpolated_as_matrices() -> None:
    """Guards against an interpolation of the factors, which at one half has a quarter of the change."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"image_encoder": nn.Linear(6, 4)})
    pretrained = frozenset(name for name, _ in model.named_parameters())
    start = model["image_encoder"].weight.detach().clone()
    add_lora(model, ("image_encoder",), rank=2, alpha=3.0)
    layer = model["image_encoder"]
    assert isinstance(layer, LoraLinear)
    names = names_between([name for name, _ in model.named_parameters() if ".lora_" in name], pretrained)
    assert names == ["image_encoder.weight"]
    before = {name: dict(model.named_parameters())[name].detach().clone() for name in names}
    with torch.no_grad():
        layer.lora_b.normal_()
    change = 1.5 * (layer.lora_b @ layer.lora_a).detach()
    merge_lora(model)
    after = {name: dict(model.named_parameters())[name].detach().clone() for name in names}
    set_between(model, before, after, 0.5)
    torch.testing.assert_close(model["image_encoder"].weight.detach(), start + 0.5 * change)


def test_weights_that_start_anew_stay_as_trained() -> None:
    """Guards against a head that is mixed with the noise it started from."""
    trained = ["head.weight", "tower.0.weight", "tower.1.lora_a", "tower.1.lora_b", "new.lora_a"]
    assert names_between(trained, frozenset(["tower.0.weight", "tower.1.weight", "tower.1.bias"])) == [
        "tower.0.weight",
        "tower.1.weight",
    ]


@pytest.mark.parametrize(
    ("new", "old", "chosen"),
    [
        ((0.1, 0.5, 0.9), (0.6, 0.58, 0.3), 0.5),
        ((0.1, 0.5, 0.9), (0.6, 0.58, 0.57), 1.0),
        ((0.5, 0.5, 0.4), (0.6, 0.6, 0.6), 0.0),
        ((0.1, 0.5, 0.9), (0.5, 0.4, 0.3), 0.0),
        ((0.1, 0.9, 0.5), None, 0.5),
    ],
)
def test_the_share_is_the_best_new_one_that_keeps_the_old(
    new: tuple[float, ...], old: tuple[float, ...] | None, chosen: float
) -> None:
    """Guards against a choice that forgets, one that learns nothing, and one that goes farther for nothing."""
    rows = [
        Mixed(alpha, score(new[place]), score(old[place]) if old else None)
        for place, alpha in enumerate((0.0, 0.5, 1.0))
    ]
    assert choose(rows, 0.57) == chosen


def test_the_model_is_left_at_the_share_that_is_reported() -> None:
    """Guards against a model left at the last share that was measured."""
    model = nn.Linear(1, 1, bias=False)
    before = {"weight": torch.zeros(1, 1)}
    with torch.no_grad():
        model.weight.fill_(1.0)

    def new() -> Score:
        return score(model.weight.item())

    def old() -> Score:
        return score(1 - model.weight.item() ** 2)

    way = interpolate(model, before, "acc1", new, old, 0.5, Console(file=io.StringIO()))
    assert way.alpha == 0.7 == pytest.approx(model.weight.item())
    assert [row.alpha for row in way.rows] == list(ALPHAS)
    assert [row.new.value for row in way.rows] == pytest.approx(ALPHAS)
    assert "50.0 %" in way.rule
