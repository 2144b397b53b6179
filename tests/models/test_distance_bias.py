"""Attention that knows how far apart two places are."""

import itertools
import math

import pytest
import torch

from chiasm.models import transformer
from chiasm.models.distance_bias import DistanceBias
from chiasm.models.transformer import Attention, attend, attention_weights
from chiasm.train.optimizer import has_decay


def test_the_start_is_slopes_by_distance() -> None:
    """Guards against rows taken for columns, and against heads that look at the token itself first."""
    rows, columns = 2, 3
    bias = DistanceBias((rows, columns), 8)().detach()
    places = list(itertools.product(range(rows), range(columns)))
    for head, slope in enumerate((-2, -1, -0.5, 0, 0, 0.5, 1, 2)):
        for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
            expected = slope * math.dist(one, other) if i != j else -6.0 * (slope != 0)
            assert bias[head, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_one_offset_has_one_number() -> None:
    """Guards against a number that is learned at one place and unknown at the next."""
    made = DistanceBias((3, 4), 2)
    with torch.no_grad():
        made.by_offset.copy_(torch.randn(made.by_offset.shape, generator=torch.Generator().manual_seed(0)))
    bias, places = made(), list(itertools.product(range(3), range(4)))
    known: dict[tuple[int, int], list[float]] = {}
    for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
        value = bias[:, i, j].tolist()
        assert known.setdefault((one[0] - other[0], one[1] - other[1]), value) == value
    assert len(known) == made.by_offset.shape[1] == 5 * 7 and len(set(map(tuple, known.values()))) == 35


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("is_short", [False, True])
def test_attention_adds_it_before_the_softmax(is_masked: bool, is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a kernel that drops the bias, or the mask beside it."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 6, 8, generator=generator) for _ in range(3))
    bias = torch.randn(2, 6, 6, generator=generator)
    allowed = (torch.rand(2, 1, 6, 6, generator=generator) < 0.7) | torch.eye(6, dtype=torch.bool)
    allowed = allowed if is_masked else torch.ones_like(allowed)
    monkeypatch.setattr(transformer, "STEADY_QUERIES", 100 if is_short else 0)
    with torch.no_grad():
        found = attend(query, key, value, allowed if is_masked else None, bias)
        weights = attention_weights(query, key, allowed if is_masked else None, bias)
    scores = query.double() @ key.double().transpose(-1, -2) / math.sqrt(8) + bias.double()
    expected = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.double(), expected @ value.double(), atol=1e-6, rtol=1e-5)


def test_it_learns_and_does_not_decay() -> None:
    """Guards against a bias without gradient, and against decay that flattens what tells distances apart."""
    attention = Attention(16, 4)
    attention.bias = DistanceBias((2, 3), 4)
    attention(torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    (name,) = [name for name, _ in attention.named_parameters() if "offset" in name]
    parameter = attention.get_parameter(name)
    assert parameter.grad is not None and bool(parameter.grad.any())
    assert not has_decay(name, parameter) and has_decay("query.weight", attention.query.weight)
