"""Networks whose linear layers compute with weights and inputs of eight bits, beside their own weights.

Weights are integers with a scale for each output (`models.rounded_weights`); the inputs of each token are divided by
the largest of them and rounded when they arrive, so that nothing is calibrated and no token depends on another one. The
products are exact integers (oneDNN, torch's `qlinear_pointwise`); attention, normalisation and sums stay in fp32. After
LLM.int8() (Dettmers et al. 2022, section 2.1: "vector-wise quantization"), without its outliers apart: the towers here
have none, and a network that has them is refused by its distance (`pipeline.execution_plan`).

oneDNN takes inputs of unsigned bytes, so 128 is added to each; what it adds to a product, 128 times the sum of an
output's weights, is subtracted as a bias within the product.

Axis legend: n tokens, i inputs, o outputs.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from chiasm.models.rounded_weights import LEVELS, MIDDLE, matrix_of, rounded
from chiasm.models.static_int8 import Calibratable, StaticChain, calibrated_weights, is_calibrated

LEAST = 1e-30
"""Taken as the largest number of a token of zeros."""
LEAST_SIZE = 64
"""Layers with fewer inputs keep their weights: rounding the inputs costs more than the product."""
Rounded = tuple[UInt8[Tensor, "n i"], Float[Tensor, "n 1"]]


class Int8Product:
    """x [n, i] -> W x + b [n, o], float32, times a constant.

    Args:
        weight: the matrix [o, i].
        bias: [o] or None.
        factor: constant on the products.
        bias_factor: constant on the bias.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, factor: float = 1.0, bias_factor: float = 1.0) -> None:
        integers, scale = rounded(weight)
        self.scale = scale * factor
        self.bias = torch.zeros(len(scale)) if bias is None else bias.detach().float() * bias_factor
        self._packed = torch.ops.onednn.qlinear_prepack(integers, None)
        self._no_offset = torch.zeros(len(scale), dtype=torch.long)
        self._offset = -MIDDLE * self.scale * integers.sum(1)
        self._half = torch.full((weight.shape[1],), MIDDLE + 0.5)

    def round(self, x: Float[Tensor, "n i"], largest: Float[Tensor, "n 1"] | None = None) -> Rounded:
        """Bytes, and the number that each row of them is multiples of.

        `largest` is at least the largest absolute number of each row, and gives x up to be overwritten; None finds it.
        """
        out = x if largest is not None else None
        if largest is None:
            largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).clamp_min_(LEAST)
        # A half more, because the conversion to bytes cuts off what is behind the point.
        return torch.addcmul(self._half, x, LEVELS / largest, out=out).to(torch.uint8), largest.mul_(1 / LEVELS)

    def times(self, given: Rounded, out: Tensor | None = None) -> Float[Tensor, "n o"]:
        """Rounded inputs times the rounded weight, in fp32 with the bias: what `F.linear` gives, but for rounding."""
        bytes_, steps = given
        inputs, weights = (bytes_, 1.0, 0), (self._packed, self.scale, self._no_offset)
        product = torch.ops.onednn.qlinear_pointwise
        found = product(*inputs, *weights, self._offset, 1.0, 0, torch.float32, "none", [], "")
        return torch.addcmul(self.bias, found, steps, out=found if out is None else out)


class _LastInput:
    """The last input of any layer and its bytes: queries, keys and values of a block are made of the same tensor."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, Rounded] | None = None

    def get(self, x: Tensor, product: Int8Product) -> Rounded:
        """The bytes of x [..., i]."""
        kept = self._kept
        if kept is not None and kept[0] is x and kept[1] == _version(x):
            return kept[2]
        given = product.round(x.reshape(-1, x.shape[-1]).float())
        self._kept = (x, _version(x), given)
        return given

    def clear(self) -> None:
        """Free what is kept."""
        self._kept = None


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


class _Linear:
    """A linear layer in place of `nn.Linear.forward`."""

    def __init__(self, layer: nn.Linear, last: _LastInput) -> None:
        self._product, self._last = Int8Product(matrix_of(layer), layer.bias), last

    def __call__(self, x: Tensor) -> Tensor:
        found = self._product.times(self._last.get(x, self._product))
        return found.view(*x.shape[:-1], -1)


class _Patches:
    """A convolution whose windows touch without overlap, as a linear layer of each window."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self._product, self._side = Int8Product(layer.weight.detach().flatten(1), layer.bias), layer.kernel_size

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d r s"]:
        rows, columns = (size // side for size, side in zip(x.shape[2:], self._side, strict=True))
        cut = x[:, :, : rows * self._side[0], : columns * self._side[1]].float()
        windows = cut.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
        found = self._product.times(self._product.round(windows.reshape(len(x) * rows * columns, -1)))
        return found.view(len(x), rows, columns, -1).permute(0, 3, 1, 2)


def _gelu(x: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.gelu_(x))


def _tanh_gelu(x: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.gelu_(x, approximate="tanh"))


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "GELU": (_gelu, 1.0, 0.1700),
    "GELUActivation": (_gelu, 1.0, 0.1700),
    "GELUTanh": (_tanh_gelu, 1.0, 0.1701),
    # x sigmoid(1.702 x) is silu(1.702 x) / 1.702, and both constants go into the products.
    "QuickGELUActivation": (lambda x: F.silu(x, inplace=True), 1.702, 0.2785),
}
"""Class -> function that works in place, constant c, and a bound on -f: the activation is f(c x) / c."""


class _Mlp:
    """Linear layer, activation, linear layer: the activation's outputs are rounded where they lie.

    Their least number is known, so that the largest alone is looked for.
    """

    def __init__(self, first: nn.Linear, activation: nn.Module, last: nn.Linear) -> None:
        self._activate, factor, self._bound = _ACTIVATIONS[type(activation).__name__]
        self._first = Int8Product(matrix_of(first), first.bias, factor, factor)
        self._last = Int8Product(matrix_of(last), last.bias, 1 / factor)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        hidden = self._activate(self._first.times(self._first.round(rows)))
        largest = hidden.amax(1, keepdim=True).clamp_min_(self._bound)
        return self._last.times(self._last.round(hidden, largest)).view(*x.shape[:-1], -1)


class Int8Network:
    """Replacements of a network's linear layers, patch convolutions and MLPs; its own weights stay as they are.

    Convolutions of other kinds are replaced where they are calibrated (`models.static_int8`).

    Args:
        network: its weights are read now.
    """

    def __init__(self, network: nn.Module) -> None:
        self._last = _LastInput()
        self._replaced = list(self._replacements(network))

    def _replacements(self, network: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
        taken: set[nn.Module] = set()
        for module in network.modules():
            if module in taken:
                continue
            if is_calibrated(module):
                taken |= {module, *module.chain()}
                yield module, StaticChain(module)
            elif (parts := _mlp_of(module)) is not None:
                taken |= {parts[0], parts[2]}
                yield module, _Mlp(*parts)
            elif isinstance(module, nn.Linear) and _is_large(module):
                yield module, _Linear(module, self._last)
            elif isinstance(module, nn.Conv2d) and _is_patches(module):
                yield module, _Patches(module)

    def __len__(self) -> int:
        return len(self._replaced)

    def put_in(self) -> None:
        """Compute with eight bits from here on."""
        for module, made in self._replaced:
            module.__dict__["forward"] = made  # Assigned by nn.Module it takes ten times as long.

    def take_out(self) -> None:
        """Compute with the network's own weights again."""
        self.clear()
        for module, _ in self._replaced:
            module.__dict__.pop("forward", None)

    def clear(self) -> None:
        """Free the bytes of the last input."""
        self._last.clear()


def int8_weights(network: nn.Module) -> int:
    """How many weights `Int8Network` would compute with in eight bits."""
    counted = 0
    for layer in network.modules():
        if (isinstance(layer, nn.Linear) and _is_large(layer)) or (isinstance(layer, nn.Conv2d) and _is_patches(layer)):
            counted += layer.weight.numel()
        elif isinstance(layer, Calibratable):
            counted += calibrated_weights(layer)
    return counted


def _is_large(layer: nn.Linear) -> bool:
    return layer.in_features >= LEAST_SIZE


def _is_patches(layer: nn.Conv2d) -> bool:
    is_plain = layer.groups == 1 and layer.padding in ((0, 0), "valid") and layer.dilation == (1, 1)
    return is_plain and layer.kernel_size == layer.stride and layer.weight[0].numel() >= LEAST_SIZE


def _mlp_of(module: nn.Module) -> tuple[nn.Linear, nn.Module, nn.Linear] | None:
    """The layers of an MLP: of `nn.Sequential`, or named as transformers' towers of images name them."""
    layers: list[Any] = list(module.children())
    if len(layers) != 3:
        return None
    if not isinstance(module, nn.Sequential):
        layers = [getattr(module, name, None) for name in ("fc1", "activation_fn", "fc2")]
    first, activation, last = layers
    if not (isinstance(first, nn.Linear) and isinstance(last, nn.Linear) and _is_large(first) and _is_large(last)):
        return None
    is_known = isinstance(activation, nn.Module) and type(activation).__name__ in _ACTIVATIONS
    is_exact = getattr(activation, "approximate", "none") == "none"
    return (first, activation, last) if is_known and is_exact else None
