"""The interface of a quantiser: continuous vectors -> codes, of which each is a number and a vector.

Axis legend: m vectors, d width of a vector, k codes, q = m times the codes of a vector.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.errors import InputError

CHANNELS = 3
"""Colours of a pixel."""


class Quantised(NamedTuple):
    """Result of a quantiser in training.

    Attributes:
        values: float32 [m, d], what the decoder gets; gradients reach the continuous vectors.
        ids: int64 [q], the hard codes of each vector.
        penalty: float32 [m], what the loss adds for each vector; its mean over the vectors of all processes is meant.
    """

    values: Tensor
    ids: Tensor
    penalty: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig(ABC):
    """The quantiser of an image tokenizer: keys of every kind."""

    kind: str = ""
    """Kind of quantiser: a key of `models.codebooks.QUANTIZERS`."""

    reads_pixels: ClassVar[bool] = False
    """True: the continuous vectors are pixels, taken apart by `Quantizer.split`, and no encoder is trained."""

    @abstractmethod
    def build(self, side_px: int) -> "Quantizer":
        """Build the quantiser for squares of `side_px` pixels a side."""

    @abstractmethod
    def check(self, where: str) -> None:
        """Check ranges; `where` is the name of this section in the config.

        Raises:
            InputError: names the key and its range.
        """


class Quantizer(nn.Module, ABC):
    """Base class of a quantiser; vectors are float32, whatever the number format of its parameters.

    The vector of a code is a number of bfloat16 in every place, so that it is the same after it was stored as float16
    (`pipeline.feature_cache`) or computed in bf16; `ids_of` therefore finds its code again.

    Attributes:
        codes: number of codes k; ids are 0 to k - 1.
        dim: width d of a vector, continuous or of a code.
    """

    codes: int
    dim: int
    is_scalewise: ClassVar[bool] = False
    """True: each number is quantised alone, so that all need one scale; False: distances count."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "m d"], step: int) -> Quantised:
        """Quantise in training; `step` counts the steps since `start`."""

    @abstractmethod
    def ids(self, latents: Float[Tensor, "m d"]) -> Int[Tensor, " q"]:
        """The codes of each vector, which follow one another."""

    @abstractmethod
    def vectors(self, ids: Int[Tensor, " q"]) -> Float[Tensor, "m d"]:
        """The vectors of codes."""

    @abstractmethod
    def ids_of(self, vectors: Float[Tensor, "m d"]) -> Int[Tensor, " q"]:
        """The codes that each vector belongs to; undoes `vectors`."""

    @property
    def part_codes(self) -> tuple[int, ...]:
        """How many ids each code of a vector may be: the first ones the first code, the next ones the second."""
        return (self.codes,)

    @property
    def shown_dim(self) -> int:
        """Numbers e that the decoder gets for a vector."""
        return self.dim

    def split(self, patches: Float[Tensor, "m p"]) -> Float[Tensor, "m d"]:
        """The continuous vectors of squares of pixels, by colour, in [-1, 1]; see `QuantizerConfig.reads_pixels`."""
        raise NotImplementedError

    def shown(self, vectors: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """What the decoder gets for vectors: they themselves, or what they stand for."""
        return vectors

    def bounded(self, latents: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """What the decoder gets before `start`: the continuous vectors, in the range that codes can have."""
        return latents

    @abstractmethod
    def start(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Choose the codes by vectors of one step of all processes; called once, in place of `finish_step`."""

    def finish_step(self, latents: Float[Tensor, "m d"], seed: int) -> None:
        """Change the codes after an optimiser step, by the vectors of the step; does nothing in most quantisers."""


def as_stored(vectors: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Round to numbers of bfloat16, in float32; the gradient passes unchanged."""
    rounded = vectors.detach().bfloat16().to(vectors.dtype)
    return rounded + (vectors - vectors.detach())


def straight_through(latents: Float[Tensor, "m d"], values: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """`values` to the last bit, with the gradient of `latents` (Bengio et al. 2013, section 4)."""
    return values.detach() + (latents - latents.detach())


def nearest(vectors: Float[Tensor, "m d"], book: Float[Tensor, "k d"]) -> Int[Tensor, " m"]:
    """Row of `book` nearest to each vector, in Euclidean distance; of equally near ones the first."""
    return (book.square().sum(1) - 2 * vectors @ book.T).argmin(1)


@torch.no_grad()
def nearest_exactly(vectors: Float[Tensor, "m d"], book: Float[Tensor, "k d"]) -> Int[Tensor, " m"]:
    """As `nearest` without cancellation: a vector that is a row of `book` has the distance 0. Slower."""
    return torch.cdist(vectors, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def check_above(where: str, key: str, value: int | float, least: int | float) -> None:
    """Raise `InputError` for a number that is not above `least`."""
    if not value > least:
        raise InputError(f"{where}.{key} is {value}", f"a number above {least:g}", f"--set {where}.{key}=...")
