"""Finite scalar quantisation: each number of a vector is rounded to one of a few levels, without a codebook.

Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple", section 3 and appendix A.1. It cannot leave codes
dead, but all its vectors may fall into one cell; a continuous start and the codes' perplexity show that.

Axis legend: m vectors, d levels' count.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.codebooks.quantizer import Quantised, Quantizer, QuantizerConfig, straight_through

MARGIN = 1e-3
"""Share by which the bounding function passes the outermost levels, so that they are reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalarConfig(QuantizerConfig):
    """Rounding of a few numbers to a few levels each: no codebook to learn, and codes that share their parts."""

    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels of each number; their product is the number of codes."""

    def build(self, side_px: int) -> Quantizer:
        """See `QuantizerConfig.build`."""
        return ScalarQuantizer(self.levels)

    def check(self, where: str) -> None:
        """See `QuantizerConfig.check`."""
        if not self.levels or min(self.levels) < 2:
            raise InputError(f"{where}.levels is {self.levels}", "numbers from 2", f"--set {where}.levels=8,5,5,5")


class ScalarQuantizer(Quantizer):
    """Vectors -> rounded vectors; it has no parameters.

    Args:
        levels: levels of each number, each at least 2.
    """

    is_scalewise: ClassVar[bool] = True
    reach: Tensor
    radix: Tensor
    counts: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codes, self.dim = math.prod(levels), len(levels)
        counts = torch.tensor(levels)
        radix = torch.cat([torch.ones(1, dtype=torch.long), counts.cumprod(0)[:-1]])
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("radix", radix, persistent=False)
        self.register_buffer("reach", counts // 2, persistent=False)

    def forward(self, latents: Float[Tensor, "m d"], step: int) -> Quantised:
        """Rounded numbers, straight-through; nothing is added to the loss."""
        bounded = self.bounded(latents)
        rounded = (bounded * self.reach).round() / self.reach
        ids = self.ids_of(rounded)
        return Quantised(straight_through(bounded, rounded), ids, torch.zeros_like(latents[:, 0]))

    @torch.no_grad()
    def ids(self, latents: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The code of each vector."""
        return self.ids_of((self.bounded(latents) * self.reach).round() / self.reach)

    def vectors(self, ids: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """The vector of each code: numbers from -1 to 1."""
        digits = (ids[:, None] // self.radix) % self.counts
        return (digits - self.reach) / self.reach

    def ids_of(self, vectors: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The code that each vector belongs to."""
        digits = (vectors * self.reach).round().long() + self.reach
        return (digits * self.radix).sum(1)

    def bounded(self, latents: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """A hyperbolic tangent whose roundings are the levels; of an even number of levels one more is negative."""
        half = (self.counts - 1) * (1 + MARGIN) / 2
        offset = torch.where(self.counts % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        return ((latents + shift).tanh() * half - offset) / self.reach

    def start(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Levels need no start."""
