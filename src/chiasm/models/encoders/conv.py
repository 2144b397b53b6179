"""A small convolutional stem that turns a picture into a grid of tokens, then lets the tokens look at each other.

For pictures of a few dozen pixels, where a patch projection alone learns slowly (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better"). The stem has no normalisation, only He et al. 2015's initialisation:
statistics over a picture that is mostly background hide what is drawn on it, and batch statistics tie a picture's
tokens to its neighbours. docs/log.md has the comparison.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.transformer import POSITION_STD, Block, init_weights

PROJECT_GAIN, MEAN_KEPT, PLACE_STD = 2.0, 0.1, 0.25
"""How large at the start where tokens are centred: what the stem says of a place, the share of its mean over the
picture, the place itself.

On mostly empty pictures the mean is the background and says nothing. With 1, 1 and 0.5 what differs between pictures
of Sort-of-CLEVR is a twentieth of a token's variance, with these a third, or a fifth with coordinates (docs/log.md)."""


class Placed(nn.Module):
    """Channels h -> h, h x and h y, where x and y run from -1 to 1 over the picture's width and height.

    What lies where in a cell of the grid is the mean of h x and h y over the cell, which no convolution of h alone
    gives: sums over a cell forget where their terms lay, and a token's place is known to its cell only. Adding x and y
    as two more input channels (Liu et al. 2018, "CoordConv") asks the stem to learn the product first, and on
    Sort-of-CLEVR it does not (docs/log.md).
    """

    copies = 3

    def forward(self, h: Float[Tensor, "n c height width"]) -> Float[Tensor, "n 3*c height width"]:
        """Return h with its two copies after it."""
        x = torch.linspace(-1, 1, h.shape[3], dtype=h.dtype, device=h.device)
        y = torch.linspace(-1, 1, h.shape[2], dtype=h.dtype, device=h.device)
        return torch.cat([h, h * x, h * y[:, None]], dim=1)


class ConvEncoder(nn.Module):
    """uint8-range pictures -> grid of tokens.

    Args:
        image_size_px: height and width of the input.
        channels: output channels of the 3x3 convolutions, each of stride 2; the last is followed by a projection.
        dim: token width.
        layers: transformer blocks over the grid.
        heads: attention heads.
        centred: start from what differs between places, see `MEAN_KEPT`; for pictures that are mostly empty.
        coordinates: what follows the first convolution also reads its channels times x and times y, see `Placed`; for
            questions about distances.
    """

    def __init__(
        self,
        image_size_px: tuple[int, int],
        channels: tuple[int, ...],
        dim: int,
        layers: int,
        heads: int,
        centred: bool = False,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        height, width = image_size_px
        depth = 3
        for number, after in enumerate(channels):
            stem += [nn.Conv2d(depth, after, 3, stride=2, padding=1), nn.GELU()]
            depth = after
            if coordinates and number == 0:
                stem.append(Placed())
                depth *= Placed.copies
            height, width = (height + 1) // 2, (width + 1) // 2
        self.dim, self.length = dim, height * width
        self.stem = nn.Sequential(*stem)
        self.project = nn.Linear(depth, dim)
        self.mean_kept = nn.Parameter(torch.tensor(MEAN_KEPT)) if centred else None
        self.position = nn.Parameter(torch.randn(self.length, dim) * (PLACE_STD if centred else POSITION_STD))
        blocks = [Block(dim, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)
        for layer in self.stem:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        if centred:
            with torch.no_grad():
                self.project.weight.mul_(PROJECT_GAIN)
        for block in blocks:
            block.start_near_identity()

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode pictures with values in [-1, 1], already of the size the tower was built for."""
        grid = self.stem(image.contiguous(memory_format=torch.channels_last))
        x = self.project(grid.flatten(2).transpose(1, 2))
        if self.mean_kept is not None:
            x = x + (self.mean_kept - 1) * x.mean(1, keepdim=True)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.mean(1))
