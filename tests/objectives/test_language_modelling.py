"""The loss that never keeps all logits, against torch's cross-entropy of all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from chiasm.objectives import language_modelling
from chiasm.objectives.language_modelling import next_word, next_word_of_states


def _case(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(6, 11, bias=bias).to(dtype)
    return torch.randn(7, 6, dtype=dtype, requires_grad=True), layer, torch.randint(0, 11, (7,))


@pytest.mark.parametrize("rows_at_once", [1, 3, 256])
@pytest.mark.parametrize(("bias", "scale", "cap"), [(False, 1.0, None), (True, 0.25, None), (True, 3.0, 2.0)])
def test_value_and_gradients_are_those_of_all_logits(
    rows_at_once: int, bias: bool, scale: float, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_modelling, "ROWS_AT_ONCE", rows_at_once)
    states, layer, target = _case(bias)
    found = next_word_of_states(states, layer, target, scale, cap)["loss"] * 1.7
    tensors = [states, *layer.parameters()]
    gradients = torch.autograd.grad(found, tensors)
    logits = layer(states) * scale
    expected = F.cross_entropy(logits if cap is None else cap * torch.tanh(logits / cap), target) * 1.7
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, tensors), rtol=1e-10, atol=1e-12)


def test_only_what_is_trained_gets_a_gradient() -> None:
    states, layer, target = _case(True)
    layer.requires_grad_(False)
    next_word_of_states(states, layer, target)["loss"].backward()
    assert states.grad is not None and layer.weight.grad is None and layer.bias.grad is None
    layer.requires_grad_(True)
    next_word_of_states(states.detach(), layer, target)["loss"].backward()
    assert layer.weight.grad is not None


def test_no_word_is_a_loss_of_zero_with_a_zero_gradient() -> None:
    states, layer, _ = _case(False)
    loss = next_word_of_states(states[:0], layer, torch.zeros(0, dtype=torch.long))["loss"]
    loss.backward()
    assert loss.item() == 0 and states.grad is not None and not states.grad.any()


def test_under_autocast_the_softmax_stays_float32() -> None:
    torch.manual_seed(0)
    states, layer = torch.randn(40, 64, requires_grad=True), nn.Linear(64, 500, bias=False)
    target = torch.randint(0, 500, (40,))
    with torch.autocast("cpu", torch.bfloat16):
        found = next_word_of_states(states, layer, target)["loss"]
        expected = next_word(layer(states), target)["loss"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(found, states)[0]
    theirs = torch.autograd.grad(expected, states)[0]
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-4)
