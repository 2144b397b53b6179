"""Convolutions with weights and inputs of eight bits, in ranges that were measured on one's own images beforehand.

Between two convolutions of a chain nothing but bytes is written: what a convolution multiplies, sums, scales, cuts off
at zero and rounds is one pass (oneDNN, torch's `qconv2d_pointwise`). Each channel has a range of its own, whose step is
multiplied into the weights that read the channel (Nagel et al. 2019, "Data-free quantization through weight
equalization and bias correction", section 4.1, move scales in the same way). Rounding shifts the mean of an output; the
shift is measured on the same images and subtracted (section 4.2).

A chain begins and ends in fp32. Its first input has signs and is stored with `MIDDLE` added; what ReLU6 gives has none.

Axis legend: n images, c/d channels, h/w height and width.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, TypeGuard, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from chiasm.models.folded_conv import PACKED_FOR, Chained, FoldableConv, same_kernel
from chiasm.models.rounded_weights import LEVELS, MIDDLE, rounded

CALIBRATION_NAMES = (".input_range", ".mean_shift")
"""Ends of the names of tensors that a calibrated network has beside its weights, in a run folder too."""
BYTES = 255
MARGIN = 1.5
"""A range is so many times the largest number of the images it was measured on: of other images' channels some are
larger, and cutting these off costs more than coarser steps (docs/log.md has what else was tried)."""
LEAST_RANGE = 1e-3
"""Of a channel that was zero in all images."""
AT_ONCE, SHIFTED = 16, 48
"""Images of a batch that ranges are measured on, and of the one that shifts are."""


@runtime_checkable
class Calibratable(Protocol):
    """A network with chains that can be computed in eight bits."""

    def chains(self) -> Sequence[Chained]:
        """In the order in which they are computed."""

    def __call__(self, image: Tensor) -> object:
        """Compute float images [n, 3, h, w] in [-1, 1]."""


@torch.no_grad()
def calibrate(network: Calibratable, images: Float[Tensor, "n c h w"]) -> None:
    """Measure ranges and shifts of all chains on images, and keep them in the network as buffers of 16 bits.

    Ranges are those of all images. For the shifts the network is computed once more, on the first `SHIFTED` images
    twice: half of the batch exactly, half as in eight bits so far, so that the shifts of later convolutions include
    what earlier ones have rounded.
    """
    chains = network.chains()
    hooks = []
    for module in chains:
        for number, one in enumerate(module.chain()):
            one.register_buffer("input_range", None)
            hooks.append(one.register_forward_pre_hook(partial(_widen, number == 0)))
    try:
        for some in images.split(AT_ONCE):
            network(some)
    finally:
        for hook in hooks:
            hook.remove()
    for module in chains:
        module.__dict__["forward"] = _Calibrating(module)
    try:
        network(torch.cat([images[:SHIFTED], images[:SHIFTED]]))
    finally:
        for module in chains:
            del module.__dict__["forward"]


def _widen(is_signed: bool, one: nn.Module, inputs: tuple[Tensor]) -> None:
    """Make the range of a convolution's inputs hold these; a hook before its forward."""
    assert isinstance(one, FoldableConv), "the hook is one of convolutions"
    most = torch.finfo(torch.float16).max if is_signed else 6.0
    found = (inputs[0].abs().amax((0, 2, 3)) * MARGIN).clamp(LEAST_RANGE, most).half()
    known = one.input_range
    one.input_range = found if known is None else torch.maximum(known, found)


def make_room(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the modules of a network the buffers of a calibration that is about to be read, among other tensors."""
    modules = dict(network.named_modules())
    for name, tensor in tensors.items():
        path, _, buffer = name.rpartition(".")
        if name.endswith(CALIBRATION_NAMES) and path in modules:
            modules[path].register_buffer(buffer, torch.zeros_like(tensor))


def is_calibrated(module: object) -> TypeGuard[Chained]:
    """Whether a module is a chain whose convolutions all have ranges."""
    return isinstance(module, Chained) and all("input_range" in one._buffers for one in module.chain())


def calibrated_weights(network: Calibratable) -> int:
    """Weights of the convolutions of its calibrated chains."""
    chains = [one for one in network.chains() if is_calibrated(one)]
    return sum(part.folded()[0].numel() for one in chains for part in one.chain())


class StaticChain:
    """A calibrated chain in place of its module's forward; its weights are read now.

    Args:
        module: with ranges.
    """

    def __init__(self, module: Chained) -> None:
        convolutions = module.chain()
        steps = [_steps(one, number == 0) for number, one in enumerate(convolutions)]
        following = [*steps[1:], None]
        self._parts = [
            _OfBytes(one, number == 0, after)
            for number, (one, after) in enumerate(zip(convolutions, following, strict=True))
        ]
        self._residual, self._activate = module.residual, bool(convolutions[-1].activate)
        self._inverse = (1 / steps[0])[:, None, None]
        # A half more, because the conversion to bytes cuts off what is behind the point.
        self._middle = torch.full_like(self._inverse, MIDDLE + 0.5)

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """What the module's forward gives, but for rounding; an image's numbers depend on no other image."""
        found = torch.addcmul(self._middle, x, self._inverse).clamp_(0, BYTES).to(torch.uint8)
        for part in self._parts:
            found = part(found)
        if self._activate:
            found.clamp_(0, 6)
        return found.add_(x) if self._residual else found


class _OfBytes:
    """One convolution of bytes: to bytes in the steps of the next one, or to float32 without its activation."""

    def __init__(self, convolution: FoldableConv, is_signed: bool, next_steps: Tensor | None) -> None:
        integers, scale, bias = _integers(convolution, is_signed)
        bias = bias - convolution.mean_shift.float()
        if is_signed:
            assert integers.shape[2:] == (1, 1), "padding would stand for a number and not for zero"
            bias = bias - MIDDLE * scale * integers.flatten(1).sum(1)
        by = 1.0 if next_steps is None else 1 / next_steps
        self._kernel, self._scale, self._bias = integers, scale * by, bias * by
        self._dtype = torch.float32 if next_steps is None else torch.uint8
        self._no_offset = torch.zeros(len(scale), dtype=torch.long)
        self._stride, self._groups = int(convolution.stride), int(convolution.groups)
        self._packed: dict[tuple[int, int], Tensor] = {}

    def __call__(self, x: UInt8[Tensor, "n c h w"]) -> Tensor:
        size = (x.shape[2], x.shape[3])
        padding, stride = [self._kernel.shape[2] // 2] * 2, [self._stride] * 2
        order = (stride, padding, [1, 1], self._groups)
        if size not in self._packed:
            kernel = same_kernel(self._kernel, self._stride, size)
            pack = torch.ops.onednn.qconv_prepack
            self._packed[size] = pack(kernel, self._scale, 1.0, 0, *order, [PACKED_FOR, *x.shape[1:]])
        weights = (self._packed[size], self._scale, self._no_offset, self._bias)
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, *weights, *order, 1.0, 0, self._dtype, "none", [], ""
        )
        return found


class _Calibrating:
    """A chain of twice as many images: those behind the middle are rounded, and the shifts of means are kept."""

    def __init__(self, module: Chained) -> None:
        self._module = module

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        exact, coarse = x.chunk(2)
        for number, one in enumerate(self._module.chain()):
            exact, coarse = self._after(one, exact, coarse, is_signed=number == 0)
        found = torch.cat([exact, coarse])
        return x + found if self._module.residual else found

    def _after(self, one: FoldableConv, exact: Tensor, coarse: Tensor, is_signed: bool) -> tuple[Tensor, Tensor]:
        """The outputs of a convolution, exact and of rounded inputs and weights, without the shift of their mean."""
        weight, bias = one.folded()
        integers, scale, _ = _integers(one, is_signed)
        low, high = (-MIDDLE, LEVELS) if is_signed else (0, BYTES)
        bytes_ = (coarse / _steps(one, is_signed)[:, None, None]).round_().clamp_(low, high)
        exact = _same(exact, weight, one) + bias[:, None, None]
        coarse = _same(bytes_, integers.float(), one) * scale[:, None, None] + bias[:, None, None]
        one.register_buffer("mean_shift", (coarse - exact).mean((0, 2, 3)).half())
        coarse = coarse - one.mean_shift.float()[:, None, None]
        return (F.relu6(exact), F.relu6(coarse)) if one.activate else (exact, coarse)


def _same(x: Tensor, kernel: Tensor, one: FoldableConv) -> Tensor:
    """A convolution without bias, padded as the network's own."""
    kernel = same_kernel(kernel, one.stride, (x.shape[2], x.shape[3]))
    return F.conv2d(x, kernel, None, one.stride, one.kernel // 2, groups=one.groups)


def _steps(one: FoldableConv, is_signed: bool) -> Float[Tensor, " c"]:
    """What a byte of each input channel is multiples of."""
    steps: Tensor = one.input_range.float() / (LEVELS if is_signed else BYTES)
    return steps


def _integers(one: FoldableConv, is_signed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel for inputs in steps, as integers [d, c / groups, k, k] in [-127, 127]; their scale; the bias; [d] both."""
    weight, bias = (part.detach() for part in one.folded())
    steps = _steps(one, is_signed)
    by_channel = steps[None, :, None, None] if one.groups == 1 else steps[:, None, None, None]
    integers, scale = rounded((weight * by_channel).flatten(1))
    return integers.view(weight.shape), scale, bias
