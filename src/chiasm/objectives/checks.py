"""Contract checks for objectives, for those of this package and for your own."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

Objective = Callable[..., dict[str, Tensor]]


def check_objective(
    objective: Objective, inputs: Mapping[str, Tensor], rows: Mapping[str, str], constant: Collection[str] = ()
) -> None:
    """Check a loss: tensors by name -> named terms, the total under "loss".

    Args:
        objective: called with `inputs` as keywords.
        inputs: small float64 tensors that get a gradient, and whole-number or truth tensors that get none.
        rows: name of an input -> name of its first axis. Inputs that share an axis are put into another order
            together, which must not change any term. Inputs without rows, such as a temperature, are left out.
        constant: names of float64 inputs that must get no gradient, such as a teacher's outputs.

    Checks that all terms are finite scalars, that gradients agree with finite differences in float64, that
    bfloat16 inputs are computed with in float32, under autocast too, and that the order of rows does not matter.

    Raises:
        AssertionError: with what does not hold.
    """
    plain = {name: value.detach().clone() for name, value in inputs.items()}
    floating = [name for name, value in plain.items() if value.is_floating_point()]
    assert all(plain[name].dtype == torch.float64 for name in floating), "give float64 inputs"
    expected = objective(**plain)
    _check_terms(expected)
    _check_differences(objective, plain, [name for name in floating if name not in constant])
    _check_constant(objective, plain, constant)
    _check_precision(objective, plain, floating)
    for axis in dict.fromkeys(rows.values()):
        names = [name for name, of in rows.items() if of == axis]
        turned = {name: plain[name].roll(1, 0).flip(0) for name in names}
        for term, value in objective(**{**plain, **turned}).items():
            assert torch.allclose(value, expected[term], rtol=1e-9, atol=1e-12), f"order of {axis} changes {term}"


def _check_terms(terms: dict[str, Tensor]) -> None:
    assert "loss" in terms, f'the total is named "loss", there are {sorted(terms)}'
    for name, value in terms.items():
        assert value.ndim == 0, f"{name} is no scalar but {tuple(value.shape)}"
        assert bool(value.isfinite()), f"{name} is {value.item()}"


def _check_differences(objective: Objective, plain: dict[str, Tensor], floating: list[str]) -> None:
    def loss(*values: Tensor) -> Tensor:
        return objective(**{**plain, **dict(zip(floating, values, strict=True))})["loss"]

    leaves = tuple(plain[name].clone().requires_grad_() for name in floating)
    gradients = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
    for name, gradient in zip(floating, gradients, strict=True):
        assert gradient is not None and bool(gradient.abs().sum() > 0), f"{name} gets no gradient"
    assert torch.autograd.gradcheck(loss, leaves, raise_exception=False), "gradients differ from finite differences"


def _check_constant(objective: Objective, plain: dict[str, Tensor], constant: Collection[str]) -> None:
    leaves = {name: plain[name].clone().requires_grad_() for name in constant}
    loss = objective(**{**plain, **leaves})["loss"]
    assert not loss.requires_grad, f"a gradient reaches {' or '.join(constant)}"


def _check_precision(objective: Objective, plain: dict[str, Tensor], floating: list[str]) -> None:
    low = {name: plain[name].to(torch.bfloat16) if name in floating else plain[name] for name in plain}
    exact = objective(**{name: value.double() if name in floating else value for name, value in low.items()})
    for is_autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            terms = objective(**low)
        for name, value in terms.items():
            assert value.dtype == torch.float32, f"{name} of bfloat16 inputs is {value.dtype}, not float32"
            assert torch.allclose(value.double(), exact[name].double(), rtol=1e-5, atol=1e-6), (
                f"{name} of bfloat16 inputs is {value.item()}, in float64 {exact[name].item()}: not summed in float32"
            )
