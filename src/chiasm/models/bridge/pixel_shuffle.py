"""Projector `pixel_shuffle`: neighbouring tokens side by side, then one linear layer (Idefics3, SmolVLM, nanoVLM)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.bridge.projector import BridgeShape, ProjectorConfig, TokenwiseProjector


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelShuffleConfig(ProjectorConfig):
    """Fewer, wider tokens: each block of `factor` x `factor` tokens of the grid becomes one, then a linear layer.

    Laurençon et al. 2024 ("Building and better understanding vision-language models", section 3.1).
    """

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"
    factor: int = 2
    """Side of a block of tokens; the number of tokens falls by its square."""

    def check(self, where: str) -> None:
        """Check that the factor is at least 1."""
        if self.factor < 1:
            raise InputError(f"{where}.factor is {self.factor}", "1 or more", f"--set {where}.factor=2")

    def build(self, shape: BridgeShape) -> nn.Module:
        """See `ProjectorConfig.build`."""
        return PixelShuffle(shape, self.factor)


class PixelShuffle(nn.Module):
    """(h, w, c) -> (h / r, w / r, c r^2), then a linear layer. Tokens that stand before the grid are dropped.

    A side that is no multiple of r is padded with zeros at its end, so no cell is lost.

    Args:
        shape: sizes.
        factor: r.
    """

    def __init__(self, shape: BridgeShape, factor: int) -> None:
        super().__init__()
        self.factor, self.grid_of = factor, shape.grid_of
        wide = shape.image_dim * factor**2
        self.change = TokenwiseProjector(wide, nn.Linear(wide, shape.text_dim))

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens [k, l, c] -> [k, ceil(h / r) * ceil(w / r), e]; a block is real where one of its tokens is."""
        rows, columns = self.grid_of(tokens.values.shape[1])
        blocks = self._blocks(tokens.values[:, -rows * columns :], rows, columns)
        is_real = self._blocks(tokens.is_real[:, -rows * columns :, None].to(blocks.dtype), rows, columns)
        return Tokens(self.change.values(blocks), is_real.any(-1), tokens.pooled)

    def _blocks(self, values: Tensor, rows: int, columns: int) -> Tensor:
        r = self.factor
        grid = values.unflatten(1, (rows, columns))
        grid = F.pad(grid, (0, 0, 0, -columns % r, 0, -rows % r))
        blocks = grid.unflatten(1, (-1, r)).unflatten(3, (-1, r))  # k, h / r, r, w / r, r, c
        return torch.permute(blocks, (0, 1, 3, 2, 4, 5)).flatten(3).flatten(1, 2)
