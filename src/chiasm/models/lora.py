"""Low-rank adaptation: a linear layer whose own matrix stays, beside a small product that is trained.

LoRA (Hu et al. 2022, section 4.1): h = W x + (alpha / r) B A x with A [r, in] drawn at random and B [out, r] zero, so
that training starts at the pre-trained model. Merged, W + (alpha / r) B A is an ordinary layer again: a saved model
neither knows nor costs anything more.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LORA_NAMES = (".lora_a", ".lora_b")
"""Ends of the names of the parameters that are trained."""


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change; `weight` and `bias` keep their names.

    Args:
        layer: the layer to start from; its tensors are shared, not copied.
        rank: r, rows of A and columns of B; at least 1.
        alpha: the change is scaled by alpha / r, so that the learning rate need not follow the rank.
        is_kept: the change belongs to the model: `merge_lora` leaves it, and it can be switched off.

    Attributes:
        is_on: whether the change is applied; without it the output is bitwise that of `layer`.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, is_kept: bool = False) -> None:
        nn.Module.__init__(self)
        self.is_kept, self.is_on = is_kept, True
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        # At least fp32, also beside weights of two bytes: small updates would be rounded away.
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features, dtype=dtype))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if not self.is_on:
            return super().forward(x)
        down, up = self.lora_a.to(x.dtype), self.lora_b.to(x.dtype)
        if self.weight.requires_grad or self.bias is not None:
            return super().forward(x) + F.linear(F.linear(x, down) * self.scale, up)
        changed: Tensor = _ChangedProduct.apply(x, self.weight, down, up, self.scale)
        return changed

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The ordinary layer that gives the same output."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight + (self.scale * self.lora_b @ self.lora_a).to(self.weight.dtype))
        layer.bias = self.bias
        return layer


class _ChangedProduct(torch.autograd.Function):
    """W x + scale * B A x with a frozen W: the small product is added within a product, in both directions.

    As separate operations each layer writes its output, and the gradient of its input, once more; on a CPU that is a
    tenth of a step's time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """[..., in], W [out, in], A [r, in], B [out, r] -> [..., out]."""
        rows = x.reshape(-1, weight.shape[1])
        inner = (rows @ down.t()).mul_(scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return (rows @ weight.t()).addmm_(inner, up.t()).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; the frozen weight has none."""
        rows, inner, weight, down, up = ctx.saved_tensors
        given = gradients[0].reshape(-1, len(weight))
        of_inner = (given @ up).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (given @ weight).addmm_(of_inner, down).view(*gradients[0].shape[:-1], rows.shape[-1])
        return of_x, None, of_inner.t() @ rows, given.t() @ inner, None


def add_lora(model: nn.Module, prefixes: tuple[str, ...], rank: int, alpha: float, is_kept: bool = False) -> int:
    """Give every linear layer below the modules named by `prefixes` a low-rank change, and return how many got one.

    Draws A from torch's own random state: seed it before. `is_kept` as in `LoraLinear`.
    """
    places = [place for place in _linears(model) if place[2].startswith(prefixes)]
    for parent, name, _, layer in places:
        setattr(parent, name, LoraLinear(layer, rank, alpha, is_kept))
    return len(places)


def merge_lora(model: nn.Module, also_kept: bool = False) -> None:
    """Turn every `LoraLinear` of a model back into an ordinary layer with the same output; `is_kept` ones if told."""
    for parent, name, _, layer in list(_linears(model)):
        if isinstance(layer, LoraLinear) and (also_kept or not layer.is_kept):
            setattr(parent, name, layer.merged())


def has_lora(model: nn.Module) -> bool:
    """Whether a layer of the model has a low-rank change."""
    return any(isinstance(layer, LoraLinear) for layer in model.modules())


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Within the block every `LoraLinear` of the model is switched off: the model computes as before adaptation."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
    before = [layer.is_on for layer in layers]
    for layer in layers:
        layer.is_on = False
    try:
        yield
    finally:
        for layer, was_on in zip(layers, before, strict=True):
            layer.is_on = was_on


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Linear]]:
    """Parent, name in it, full name and layer of all linear layers, listed before anything is replaced."""
    modules = list(model.named_modules())
    for path, parent in modules:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                yield parent, name, f"{path}.{name}" if path else name, layer
