"""What attention over a grid of tokens knows of distances before anything is learned.

Axis legend: h heads, l tokens of the grid, o offsets between two of its places.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEEPEST = 2.0
"""Slope of the steepest pair of heads, in logits a cell; each further pair has half of it."""
SELF_LOGIT = -6.0
"""What heads with a slope give the token itself: who asks for the nearest does not mean itself."""


class DistanceBias(nn.Module):
    """A learned number for every head and every offset between two places, added to attention's logits.

    A relative position bias (Swin, Liu et al. 2021, equation 4) that starts from slopes by distance (ALiBi, Press et
    al. 2022), here in both directions: pairs of heads begin by looking at what is near and at what is far, and not at
    themselves; two heads begin without a slope where there are four or more. Which of several things is the closest
    has no linear answer in their places, and the logits that tell small distances apart are far from those at the
    start: without the slopes it is learned after thousands of steps, or not at all (docs/log.md).

    Args:
        grid: rows and columns of tokens.
        heads: attention heads.
    """

    index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        rows, columns = grid
        y, x = (part.flatten() for part in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
        down, right = y[:, None] - y + rows - 1, x[:, None] - x + columns - 1
        self.register_buffer("index", down * (2 * columns - 1) + right, persistent=False)
        distance = torch.hypot(
            *torch.meshgrid(torch.arange(1.0 - rows, rows), torch.arange(1.0 - columns, columns), indexing="ij")
        ).flatten()
        slopes = _slopes(heads)
        start = slopes[:, None] * distance
        start[:, distance == 0] = torch.where(slopes != 0, SELF_LOGIT, 0.0)[:, None]
        self.by_offset = nn.Parameter(start)

    def forward(self) -> Float[Tensor, "h l l"]:
        """Return the logits to add."""
        return self.by_offset[:, self.index]


def _slopes(heads: int) -> Float[Tensor, " h"]:
    """Near, without, far: -2, -1, -0.5, 0, 0, 0.5, 1, 2 for eight heads."""
    pairs = heads // 2 - (heads >= 4)
    steep = STEEPEST * 0.5 ** torch.arange(pairs)
    return torch.cat([-steep, torch.zeros(heads - 2 * pairs), steep.flip(0)])
