"""An image's heat-map in plain Python, the same for every task that has attention over the image."""

from typing import Any

from torch import Tensor

from chiasm.models.attention_maps import as_grid
from chiasm.models.vision_language import VisionLanguageModel

HeatMap = dict[str, Any]
"""`{"grid": rows of numbers in [0, 1] that sum to 1 in all, "covers": "whole" | "middle"}`.

"middle": the tower was shown the middle of the image, cut to its own shape; the grid lies over that part.
"""


def heat_maps_of(model: VisionLanguageModel, shares: Tensor | None, count: int) -> list[HeatMap | None]:
    """Token shares float [m, l] of `models.attention_maps` -> m heat-maps; None each where there is no attention."""
    grids = None if shares is None else as_grid(shares.double(), model.config.image)
    if grids is None:
        return [None] * count
    covers = "whole" if model.config.image.from_scratch else "middle"
    return [{"grid": grid, "covers": covers} for grid in grids.tolist()]
