"""A small convolutional stem that turns a picture into a grid of tokens, then lets the tokens look at each other.

For pictures of a few dozen pixels, where a patch projection alone learns slowly (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better").
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.transformer import POSITION_STD, Block, init_weights


class ConvEncoder(nn.Module):
    """uint8-range pictures -> grid of tokens.

    Args:
        image_size_px: side of the square input.
        channels: output channels of the 3x3 convolutions, each of stride 2; the last is followed by a projection.
        dim: token width.
        layers: transformer blocks over the grid.
        heads: attention heads.
    """

    def __init__(self, image_size_px: int, channels: tuple[int, ...], dim: int, layers: int, heads: int) -> None:
        super().__init__()
        widths = (3, *channels)
        stem: list[nn.Module] = []
        side = image_size_px
        for before, after in pairwise(widths):
            stem += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
            side = (side + 1) // 2
        self.dim, self.length, self.image_size_px = dim, side * side, image_size_px
        self.stem = nn.Sequential(*stem)
        self.project = nn.Linear(widths[-1], dim)
        self.position = nn.Parameter(torch.randn(self.length, dim) * POSITION_STD)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode pictures with values in [-1, 1], already [n, 3, image_size_px, image_size_px]."""
        # The median colour is the background of a drawn picture. At zero it no longer outweighs the few pixels that
        # differ when the stem normalises: Sort-of-CLEVR leaves its first plateau in 300 steps instead of 700.
        background = image.flatten(2).median(dim=-1).values[:, :, None, None]
        grid = self.stem((image - background).contiguous(memory_format=torch.channels_last))
        x = self.project(grid.flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.mean(1))
