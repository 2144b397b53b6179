"""Attention heat maps as plain Python values, in one form for all tasks with attention over an image."""

from typing import Any

from torch import Tensor

from chiasm.models.attention_maps import as_grid
from chiasm.models.vision_language import VisionLanguageModel

HeatMap = dict[str, Any]
"""`{"grid": rows of numbers in [0, 1] that sum to 1 in all, "covers": "whole" | "middle"}`.

"middle": the tower's input was a centre crop of the image, and the grid covers that crop.
"""


def heat_maps_of(model: VisionLanguageModel, shares: Tensor | None, count: int) -> list[HeatMap | None]:
    """Attention shares float [m, l] of `models.attention_maps` -> m heat maps, each None without attention."""
    grids = None if shares is None else as_grid(shares.double(), model.config.image)
    if grids is None:
        return [None] * count
    covers = "whole" if model.config.image.from_scratch else "middle"
    return [{"grid": grid, "covers": covers} for grid in grids.tolist()]
