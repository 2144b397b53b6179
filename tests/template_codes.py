"""An exact image tokenizer of scenes, as an image tower from outside the package: a code for each look of a cell."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.data.generated.scene_detector import _templates
from chiasm.data.generated.scenes import CELL_PX, GRID
from chiasm.models.encoders import IMAGE_ENCODERS
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateCodesConfig(ImageTowerConfig):
    """Nine codes an image, which lose nothing."""

    kind: Literal["template_codes"] = "template_codes"
    from_scratch: ClassVar[bool] = True
    has_codes: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        return TemplateCodes()


class TemplateCodes(nn.Module):
    """Images of scenes -> the number of the template in each cell, and back; without rounding by the network."""

    def __init__(self) -> None:
        super().__init__()
        cells, _ = _templates()
        self.register_buffer("cells", torch.from_numpy(cells))
        self.part_codes, self.grid, self.dim = (len(cells),), (GRID, GRID), 2

    def ids(self, pixels: Tensor) -> Tensor:
        levels = (
            ((pixels.float() + 1) * 127.5).permute(0, 2, 3, 1).unflatten(2, (GRID, CELL_PX)).unflatten(1, (GRID, -1))
        )
        rows = levels.transpose(2, 3).flatten(3).flatten(1, 2)
        cells = self.cells.float() - 128
        return (cells.square().sum(1) - 2 * (rows - 128) @ cells.T).argmin(-1)

    def ids_of(self, values: Tensor) -> Tensor:
        return (values[..., 0] * 32 + values[..., 1]).round().long()

    def pixels(self, ids: Tensor) -> Tensor:
        looks = self.cells[ids].unflatten(1, (GRID, GRID)).unflatten(3, (CELL_PX, CELL_PX, 3))
        return looks.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).float() / 255

    def forward(self, image: Tensor) -> Tokens:
        ids = self.ids(image)
        values = torch.stack([ids // 32, ids % 32], dim=-1).to(image.dtype)
        return Tokens(values, torch.ones_like(ids, dtype=torch.bool), values.mean(1))


IMAGE_ENCODERS.setdefault("template_codes", TemplateCodesConfig)


def exact(image: np.ndarray) -> np.ndarray:
    """What the tokenizer makes of an image uint8 [48, 48, 3]."""
    tokenizer = TemplateCodes()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    return (tokenizer.pixels(tokenizer.ids(pixels))[0] * 255 + 0.5).byte().permute(1, 2, 0).numpy()
