"""A small convolutional stem that turns an image into a grid of tokens, followed by transformer blocks over the grid.

For images of a few dozen pixels, where a patch projection alone learns slowly (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better"). The stem has no normalisation, only He et al. 2015's initialisation:
statistics over an image that is mostly background suppress its objects, and batch statistics make an image's tokens
depend on the other images of the batch. docs/log.md has the comparison.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig
from chiasm.models.transformer import POSITION_STD, Block, init_weights

PROJECT_GAIN, MEAN_KEPT, PLACE_STD = 2.0, 0.1, 0.25
"""Initial scales of centred tokens: gain of the stem's output, share of its mean over the image that is kept, standard
deviation of the position embeddings.

On mostly empty images the mean is the background and carries no information. With 1, 1 and 0.5 the difference between
images of Sort-of-CLEVR is a twentieth of a token's variance, with these values a third (docs/log.md)."""


def build_stem(
    image_size_px: tuple[int, int], channels: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[nn.Sequential, tuple[int, int]]:
    """Build 3x3 convolutions, each followed by GELU; also return rows and columns of the grid of their output."""
    stem: list[nn.Module] = []
    rows, columns = image_size_px
    for (before, after), stride in zip(pairwise((3, *channels)), strides, strict=True):
        stem += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GELU()]
        rows, columns = -(-rows // stride), -(-columns // stride)
    return nn.Sequential(*stem), (rows, columns)


def halved(shape_px: tuple[int, int], times: int) -> tuple[int, int]:
    """Height and width after `times` convolutions of stride 2."""
    rows, columns = (-(-side // 2**times) for side in shape_px)
    return rows, columns


def start_stem(stem: nn.Sequential) -> None:
    """He et al. 2015's initialisation, with zero biases."""
    for layer in stem:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvConfig(ImageTowerConfig):
    """A grid of tokens from a few convolutions, trained from scratch: for images of a few dozen pixels."""

    kind: Literal["conv"] = "conv"
    centred: bool = False
    """Reduce the mean over the image in the tokens at initialisation: for mostly empty images with objects anywhere. On
    scenes, whose objects fill the cells of a grid, it costs accuracy (docs/log.md)."""
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Output channels of the stem's 3x3 convolutions, each of stride 2."""
    layers: int = 1
    """Blocks of attention among the image tokens."""

    from_scratch: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`."""
        return ConvEncoder(self.shape_px, self.channels, shape.dim, self.layers, shape.heads, self.centred)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """The grid of the stem's output; it does not depend on the number of tokens."""
        return halved(self.shape_px, len(self.channels))


class ConvEncoder(nn.Module):
    """uint8-range images -> grid of tokens.

    Args:
        image_size_px: height and width of the input.
        channels: output channels of the 3x3 convolutions, each of stride 2; the last is followed by a projection.
        dim: token width.
        layers: transformer blocks over the grid.
        heads: attention heads.
        centred: reduce the mean over the image at initialisation, see `MEAN_KEPT`; for images that are mostly empty.
    """

    def __init__(
        self,
        image_size_px: tuple[int, int],
        channels: tuple[int, ...],
        dim: int,
        layers: int,
        heads: int,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.stem, (rows, columns) = build_stem(image_size_px, channels, (2,) * len(channels))
        self.dim, self.length = dim, rows * columns
        self.project = nn.Linear(channels[-1], dim)
        self.mean_kept = nn.Parameter(torch.tensor(MEAN_KEPT)) if centred else None
        self.position = nn.Parameter(torch.randn(self.length, dim) * (PLACE_STD if centred else POSITION_STD))
        blocks = [Block(dim, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)
        start_stem(self.stem)
        if centred:
            with torch.no_grad():
                self.project.weight.mul_(PROJECT_GAIN)
        for block in blocks:
            block.start_near_identity()

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode images with values in [-1, 1], of the size that the tower was built for."""
        grid = self.stem(image.contiguous(memory_format=torch.channels_last))
        x = self.project(grid.flatten(2).transpose(1, 2))
        if self.mean_kept is not None:
            x = x + (self.mean_kept - 1) * x.mean(1, keepdim=True)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.mean(1))
