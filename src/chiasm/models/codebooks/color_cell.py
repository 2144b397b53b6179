"""Color cells: a pattern and two colours of a square of pixels, a code each, so that a new pair of both has codes too.

A codebook of whole squares has a code for a red edge and none for a green one that training never showed. Here the edge
is one code and the colours on its two sides are another. The square is taken apart without training, as in Campbell et
al. 1986, "Two Bit/Pixel Full Color Encoding" (a bitmap and two colours a block); each part has a codebook of its own (a
product code: Sabin and Gray 1984, "Product Code Vector Quantizers for Waveform and Voice Coding").

Axis legend: m squares, s side in pixels, p = 3 s^2 numbers of a square (colour by colour), d = s^2 + 6 of a vector.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.codebooks.quantizer import CHANNELS, Quantised, Quantizer, QuantizerConfig, check_above
from chiasm.models.codebooks.vector import VectorConfig, VectorQuantizer

LEAST_CONTRAST = 0.1
"""Distance of two colours, of values in [-1, 1], below which a pattern fades: noise of a flat square has no pattern."""
RIDGE = 1e-3
"""Weight of the squared distance from the first colours, in pixels, where colours are fitted to a pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorCellConfig(QuantizerConfig):
    """Two codes a square, of its pattern and of its two colours: drawing then combines what training never combined."""

    kind: Literal["color_cell"] = "color_cell"
    patterns: int = 512
    """Number of codes for patterns."""
    colors: int = 64
    """Number of codes for pairs of colours."""
    decay: float = 0.98
    """See `VectorConfig.decay`."""
    dead_after: int = 100
    """See `VectorConfig.dead_after`."""

    reads_pixels: ClassVar[bool] = True

    def build(self, side_px: int) -> Quantizer:
        """See `QuantizerConfig.build`."""
        return ColorCellQuantizer(self, side_px)

    def check(self, where: str) -> None:
        """See `QuantizerConfig.check`."""
        check_above(where, "patterns", self.patterns, 1)
        check_above(where, "colors", self.colors, 1)
        VectorConfig(decay=self.decay).check(where)


class ColorCellQuantizer(Quantizer):
    """Squares of pixels -> a pattern in [0, 1] and two colours, each as its nearest code.

    The code of a pattern is 0 to `patterns` - 1, that of its colours, which follows it, `patterns` and above.

    Args:
        config: sizes and rates.
        side_px: side s of a square.
    """

    def __init__(self, config: ColorCellConfig, side_px: int) -> None:
        super().__init__()
        self.config, self.area = config, side_px**2
        self.codes, self.dim = config.patterns + config.colors, self.area + 2 * CHANNELS
        self.patterns, self.colors = (
            VectorQuantizer(
                VectorConfig(codes=codes, dim=dim, decay=config.decay, commitment=0.0, dead_after=config.dead_after)
            )
            for codes, dim in zip(self.part_codes, (self.area, 2 * CHANNELS), strict=True)
        )

    @property
    def part_codes(self) -> tuple[int, ...]:
        """Codes of patterns and codes of colours."""
        return self.config.patterns, self.config.colors

    @property
    def shown_dim(self) -> int:
        """Numbers of a square of pixels."""
        return CHANNELS * self.area

    def split(self, patches: Float[Tensor, "m p"]) -> Float[Tensor, "m d"]:
        """The pattern of each square, then the colours where it is 0 and where it is 1.

        The pattern lies between the colours of the pixel farthest from the mean and of that farthest from this one. Of
        the two orders that one is taken in which the pattern has the smaller sum, which does not depend on the colours;
        the first pixel decides between equals. Then the colours become those with which the pattern shows the square
        best, by least squares.
        """
        pixels = patches.view(len(patches), CHANNELS, self.area)
        one = self._farthest(pixels, pixels.mean(2, keepdim=True))
        other = self._farthest(pixels, one)
        across = other - one
        contrast = across.square().sum(1).clamp_min(LEAST_CONTRAST**2)
        pattern = (((pixels - one) * across).sum(1) / contrast).clamp(0, 1)
        is_turned = ((pattern - 0.5).sum(1) + pattern[:, 0] - 0.5 > 0)[:, None]
        low = torch.where(is_turned, other[..., 0], one[..., 0])
        high = torch.where(is_turned, one[..., 0], other[..., 0])
        pattern = torch.where(is_turned, 1 - pattern, pattern)
        return torch.cat([pattern, self._fitted(pixels, pattern, torch.stack([low, high], dim=1))], dim=1)

    @staticmethod
    def _fitted(
        pixels: Float[Tensor, "m 3 a"], pattern: Float[Tensor, "m a"], colors: Float[Tensor, "m 2 3"]
    ) -> Float[Tensor, "m 6"]:
        """Colours in [-1, 1] of the least squares for a pattern, held by `RIDGE` to the first ones."""
        shares = torch.stack([1 - pattern, pattern], dim=1)
        matrix = shares @ shares.transpose(1, 2) + RIDGE * torch.eye(2, device=pixels.device)
        wanted = shares @ pixels.transpose(1, 2) + RIDGE * colors
        return torch.linalg.solve(matrix, wanted).clamp(-1, 1).flatten(1)

    def shown(self, vectors: Float[Tensor, "m d"]) -> Float[Tensor, "m p"]:
        """The squares that patterns and colours stand for."""
        pattern, low, high = vectors[:, None].split([self.area, CHANNELS, CHANNELS], dim=2)
        low, high = low.transpose(1, 2), high.transpose(1, 2)
        return (low + pattern * (high - low)).flatten(1)

    def forward(self, latents: Float[Tensor, "m d"], step: int) -> Quantised:
        """The nearest codes; pixels are not learned, so nothing is added to the loss."""
        ids = self.ids(latents)
        return Quantised(self.vectors(ids), ids, torch.zeros_like(latents[:, 0]))

    def ids(self, latents: Float[Tensor, "m d"]) -> Int[Tensor, " q"]:
        """Two codes for each vector, one after the other."""
        pattern, colors = self._parted(latents)
        return self._joined(self.patterns.ids(pattern), self.colors.ids(colors))

    def vectors(self, ids: Int[Tensor, " q"]) -> Float[Tensor, "m d"]:
        """The vector of each pair of codes."""
        pattern, colors = ids.view(-1, 2).unbind(1)
        return torch.cat([self.patterns.vectors(pattern), self.colors.vectors(colors - self.config.patterns)], dim=1)

    def ids_of(self, vectors: Float[Tensor, "m d"]) -> Int[Tensor, " q"]:
        """The pair of codes that each vector belongs to."""
        pattern, colors = self._parted(vectors)
        return self._joined(self.patterns.ids_of(pattern), self.colors.ids_of(colors))

    def start(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """See `VectorQuantizer.start`, for each part."""
        pattern, colors = self._parted(latents)
        self.patterns.start(pattern, seed)
        self.colors.start(colors, seed)

    def finish_step(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """See `VectorQuantizer.finish_step`, for each part."""
        pattern, colors = self._parted(latents)
        self.patterns.finish_step(pattern, seed)
        self.colors.finish_step(colors, seed)

    def _parted(self, vectors: Float[Tensor, "m d"]) -> tuple[Float[Tensor, "m a"], Float[Tensor, "m 6"]]:
        """The pattern of each vector, and its two colours."""
        return vectors[:, : self.area], vectors[:, self.area :]

    def _joined(self, patterns: Tensor, colors: Tensor) -> Tensor:
        return torch.stack([patterns, colors + self.config.patterns], dim=1).flatten()

    @staticmethod
    def _farthest(pixels: Float[Tensor, "m 3 a"], color: Float[Tensor, "m 3 1"]) -> Float[Tensor, "m 3 1"]:
        """The colour of the pixel of each square that is farthest from a colour."""
        place = (pixels - color).square().sum(1).argmax(1)
        return pixels.gather(2, place[:, None, None].expand(-1, CHANNELS, 1))
