"""A convolution with its normalisation folded in once, for inference on a CPU: oneDNN's fused operations.

Convolution, bias and ReLU6 are one pass over the output (torch's `mkldnn::_convolution_pointwise`), and padding that is
larger on one side is a row and a column of zeros in the kernel, not a copy of the image. Digits are those of the plain
way at most sizes, and within 1e-4 of them at others.

Axis legend: n images, c/d channels, h/w height and width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PACKED_FOR = 16
"""Images that kernels are laid out for. The layout decides how sums are rounded: were it that of the first batch, an
image's vector would depend on which batch came first."""


def is_fused(x: Tensor) -> bool:
    """Whether an image is computed by this module: without gradients, in fp32, on a CPU with oneDNN."""
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    return is_plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


class Chained(nn.Module):
    """A chain of convolutions, which its forward computes one after the other; its input is added where `residual`.

    All but the last have ReLU6. The kernel of the first is a single pixel where the chain is to be calibrated.
    """

    residual: bool

    def chain(self) -> "Sequence[FoldableConv]":
        """Its convolutions in order."""
        raise NotImplementedError


class FoldableConv(Chained):
    """A convolution padded as TensorFlow pads ("same"), with a normalisation that can be folded in, and maybe ReLU6.

    It is a chain of itself.

    Attributes:
        conv: the kernel [d, c / groups, k, k], without the normalisation.
        kernel: side of it, in cells.
        stride: 1 or 2.
        groups: 1, or as many as channels.
        activate: whether ReLU6 follows.
        input_range: of each input channel, what the largest byte stands for; there once it is calibrated
            (`models.static_int8`).
        mean_shift: what rounding to bytes adds to the mean of each output before ReLU6; there with the ranges.
    """

    kernel: int
    stride: int
    groups: int
    activate: bool
    conv: nn.Parameter
    residual = False
    input_range: Float[Tensor, " c"]
    mean_shift: Float[Tensor, " d"]

    def chain(self) -> "Sequence[FoldableConv]":
        """See `Chained.chain`."""
        return [self]

    def folded(self) -> tuple[Float[Tensor, "d c k k"], Float[Tensor, " d"]]:
        """Kernel, normalisation in it, and bias."""
        raise NotImplementedError


def same_kernel(kernel: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The kernel that pads images of a height and width as TensorFlow does, where k // 2 pixels are added all around.

    At a stride of 2 an even side is padded by a pixel more behind than before: the kernel begins with zeros there.
    """
    even = [stride == 2 and side % 2 == 0 for side in size]
    return F.pad(kernel, (int(even[1]), 0, int(even[0]), 0)).contiguous()


class FoldedConv:
    """Convolution and ReLU6 of channels-last images, padded as TensorFlow pads ("same").

    Args:
        weight: float32 [d, c / groups, k, k], the normalisation in it.
        bias: float32 [d].
        stride: 1 or 2.
        groups: of channels.
        activate: whether ReLU6 follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int, activate: bool) -> None:
        self._weight, self._bias, self._stride, self._groups = weight, bias, stride, groups
        self._then: tuple[str, list[float], str] = ("hardtanh", [0.0, 6.0], "") if activate else ("none", [], "")
        self._packed: dict[tuple[int, int], Tensor] = {}

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of a network folds its own weights: packed tensors cannot be copied."""

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Convolve; the output is as large as the input, or half of it, rounded up."""
        padding, stride = [self._weight.shape[2] // 2] * 2, [self._stride] * 2
        size = (x.shape[2], x.shape[3])
        if size not in self._packed:
            kernel = same_kernel(self._weight, self._stride, size)
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
            order = (padding, stride, [1, 1], self._groups, [PACKED_FOR, *x.shape[1:]])
            self._packed[size] = pack(kernel.to_mkldnn(), *order)
        fused = torch.ops.mkldnn._convolution_pointwise
        found: Tensor = fused(x, self._packed[size], self._bias, padding, stride, [1, 1], self._groups, *self._then)
        return found
