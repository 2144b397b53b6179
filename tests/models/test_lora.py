"""Low-rank changes against the same sum written out, in value and gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.models.lora import LoraLinear


def layer(has_bias: bool, is_frozen: bool) -> LoraLinear:
    torch.manual_seed(0)
    plain = nn.Linear(6, 5, bias=has_bias).double()
    plain.requires_grad_(not is_frozen)
    made = LoraLinear(plain, 3, 6.0)
    nn.init.normal_(made.lora_b)
    return made


def by_hand(made: LoraLinear, x: Tensor) -> Tensor:
    return F.linear(x, made.weight, made.bias) + made.scale * (x @ made.lora_a.T @ made.lora_b.T)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (1, 6), (0, 6), (6,)])
@pytest.mark.parametrize(("has_bias", "is_frozen"), [(False, True), (True, True), (False, False)])
def test_value_and_gradients_are_those_of_the_sum(shape: tuple[int, ...], has_bias: bool, is_frozen: bool) -> None:
    made = layer(has_bias, is_frozen)
    other = copy.deepcopy(made)
    x = torch.randn(*shape, dtype=torch.float64)
    found = []
    for one, compute in ((made, made.__call__), (other, lambda x: by_hand(other, x))):
        given = x.clone().requires_grad_()
        value = compute(given)
        (value.sin() * torch.arange(5.0, dtype=torch.float64)).sum().backward()
        found.append([value, given.grad, *(own.grad for own in one.parameters())])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)
    assert (made.weight.grad is None) == is_frozen


def test_an_input_without_gradient_gets_none_and_a_change_of_zero_changes_nothing() -> None:
    made = layer(has_bias=False, is_frozen=True)
    x = torch.randn(4, 6, dtype=torch.float64)
    made(x).sum().backward()
    assert x.grad is None and made.lora_a.grad is not None
    nn.init.zeros_(made.lora_b)
    changed = made(x)
    made.is_on = False
    assert torch.equal(changed, made(x))
