"""Vector quantisation: the nearest vector of a codebook of moving averages.

van den Oord et al. 2017, "Neural Discrete Representation Learning", section 3.2 and appendix A.1 (moving averages);
k-means start and replacement of unused codes as in Dhariwal et al. 2020, "Jukebox", section 3.

Axis legend: m vectors, d width, k codes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.codebooks.kmeans import cluster_sums, k_means, spread_rows
from chiasm.models.codebooks.quantizer import (
    Quantised,
    Quantizer,
    QuantizerConfig,
    as_stored,
    check_above,
    nearest,
    nearest_exactly,
    straight_through,
)

FAR = 16.0
"""Every number of a code that no vector has chosen yet, as a multiple of the largest number of a vector."""
MOST_REPLACED = 0.01
"""Largest share of the codes that are replaced in a step: images of later steps need some too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorConfig(QuantizerConfig):
    """Nearest vector of a codebook that starts by k-means and follows the data: the first choice."""

    kind: Literal["vector"] = "vector"
    codes: int = 512
    """Number of codes."""
    dim: int = 16
    """Width of a code's vector."""
    decay: float = 0.98
    """Decay a step, in [0, 1), of the moving averages that a code is the quotient of."""
    commitment: float = 0.25
    """Factor of the mean squared difference between the numbers of a vector and of its code (beta)."""
    dead_after: int = 100
    """Steps after which a code that no vector chose is replaced by a vector of the step; 0 replaces none."""

    def build(self, side_px: int) -> Quantizer:
        """See `QuantizerConfig.build`."""
        return VectorQuantizer(self)

    def check(self, where: str) -> None:
        """See `QuantizerConfig.check`."""
        check_above(where, "codes", self.codes, 1)
        check_above(where, "dim", self.dim, 0)
        if not 0 <= self.decay < 1:
            raise InputError(f"{where}.decay is {self.decay}", "a number in [0, 1)", f"--set {where}.decay=0.98")


class VectorQuantizer(Quantizer):
    """Vectors -> the nearest codes.

    `book` is a parameter without gradient: it changes in `finish_step`, to the moving average of the vectors that
    chose each code.

    Args:
        config: sizes and rates.
    """

    size: Tensor
    unused: Tensor

    def __init__(self, config: VectorConfig) -> None:
        super().__init__()
        self.config, self.codes, self.dim = config, config.codes, config.dim
        self.book = nn.Parameter(torch.randn(config.codes, config.dim))
        self.register_buffer("size", torch.zeros(config.codes))
        self.register_buffer("unused", torch.zeros(config.codes, dtype=torch.long))

    def forward(self, latents: Float[Tensor, "m d"], step: int) -> Quantised:
        """The nearest codes, straight-through, with the commitment."""
        ids = self.ids(latents)
        values = self.vectors(ids)
        penalty = self.config.commitment * (latents - values).square().mean(1)
        return Quantised(straight_through(latents, values), ids, penalty)

    @torch.no_grad()
    def ids(self, latents: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The nearest code of each vector."""
        return nearest(latents, self._stored())

    def vectors(self, ids: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """The vector of each code, without gradient."""
        return self._stored()[ids]

    def ids_of(self, vectors: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
        """The code that each vector belongs to."""
        return nearest_exactly(vectors, self._stored())

    def start(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Take the centres of k-means over the vectors; codes beyond them lie far from all vectors, and are dead."""
        centres, counts = k_means(latents, self.codes, seed)
        self.book.data.fill_(float(FAR * (1 + latents.abs().max())))
        self.book.data[: len(centres)] = centres
        self.size.zero_()[: len(centres)] = counts
        self.unused.copy_(torch.where(self.size > 0, 0, self.config.dead_after))

    def finish_step(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Move each code to the average of its vectors, and replace codes that no vector chose for long.

        With size N and sum S of a code as moving averages, S = N book, so S needs no buffer.
        """
        ids = nearest(latents, self.book)
        counts, sums = cluster_sums(latents, ids, self.codes)
        self.size.lerp_(counts, 1 - self.config.decay)
        share = (1 - self.config.decay) / self.size.clamp_min(torch.finfo(self.size.dtype).tiny)
        moved = share[:, None] * (sums - counts[:, None] * self.book)
        self.book.data.add_(torch.where(counts[:, None] > 0, moved, torch.zeros_like(moved)))
        self.unused.add_(1).masked_fill_(counts > 0, 0)
        if self.config.dead_after:
            self._replace_dead(latents, seed)

    def _replace_dead(self, latents: Tensor, seed: int) -> None:
        """Put codes that are unused for `dead_after` steps where vectors are far from their codes."""
        most = max(1, round(MOST_REPLACED * self.codes))
        dead = (self.unused >= self.config.dead_after).nonzero()[:most, 0]
        if not len(dead):
            return
        distance = (latents - self.book[nearest(latents, self.book)]).square().sum(1)
        rows = spread_rows(latents, len(dead), torch.Generator().manual_seed(seed), distance)
        dead = dead[: len(rows)]
        self.book.data[dead] = latents[rows]
        self.size[dead] = 1.0
        self.unused[dead] = 0

    def _stored(self) -> Tensor:
        return as_stored(self.book.detach().float())
