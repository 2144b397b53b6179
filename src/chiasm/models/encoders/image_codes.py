"""An image tokenizer: image -> a grid of codes -> image; trained from scratch by the task `reconstruction`.

The first half of DALL-E (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1): a model of words can
then write images as it writes words. The quantiser between encoder and decoder is one of `models.codebooks`. The first
steps train encoder and decoder without it ("continuous start"), since from random vectors the codes of images that are
mostly background collapse to one (docs/log.md).

Axis legend: n images, h/w height and width in pixels, l cells of the grid (row by row), d width of a code's vector.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.core.config import by_kind
from chiasm.core.distributed import gather_with_gradient
from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.codebooks import QUANTIZERS, QuantizerConfig
from chiasm.models.codebooks.vector import VectorConfig
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig, above_zero
from chiasm.models.stepwise import Stepwise

FIRST_PX = 4
"""Side of the patches that the first convolution reads and the last one writes; 2 where codes are of 2 pixels."""
EPSILON = 0.1
"""Pixels x in [0, 1] are modelled as (1 - 2 `EPSILON`) x + `EPSILON` (Ramesh et al. 2021, appendix A.3)."""
CHANNELS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCodesConfig(ImageTowerConfig):
    """A grid of discrete codes with the decoder that turns them into an image again, trained from scratch."""

    kind: Literal["image_codes"] = "image_codes"
    stride_px: int = 8
    """Side of the square of pixels that a code stands for; a power of two that divides the size."""
    width: int = 64
    """Channels of encoder and decoder."""
    blocks: int = 2
    """Residual blocks at each resolution, of encoder and of decoder."""
    continuous_steps: int = 300
    """Steps before the codes start: the decoder gets the encoder's vectors themselves. At least 1, whose vectors
    start the codebook."""
    quantizer: QuantizerConfig = field(default_factory=VectorConfig, metadata=by_kind(lambda: QUANTIZERS))
    """The quantiser; its other keys depend on `kind`."""

    from_scratch: ClassVar[bool] = True
    has_codes: ClassVar[bool] = True
    has_linear_layers: ClassVar[bool] = False

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`; the width of the tokens is that of the codes' vectors."""
        return ImageCodes(self)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of codes; they do not depend on the number of tokens."""
        height, width = self.shape_px
        return height // self.stride_px, width // self.stride_px

    def check(self) -> None:
        """See `ImageTowerConfig.check`."""
        ImageTowerConfig.check(self)
        for key in ("width", "blocks", "continuous_steps"):
            above_zero(f"model.image.{key}", getattr(self, key))
        self.quantizer.check("model.image.quantizer")
        stride = self.stride_px
        if stride < 2 or stride & (stride - 1) or any(side % stride for side in self.shape_px):
            height, width = self.shape_px
            raise InputError(
                f"model.image.stride_px is {stride}, and images are {height} x {width} pixels",
                "a power of two from 2 that divides both sides",
                "--set model.image.stride_px=8, or another model.image.size_px",
            )


class CodedTokens(Tokens):
    """Tokens of `ImageCodes`, with what the loss needs beside them.

    Attributes:
        ids: int64 [n, l], the hard codes.
        penalty: float32 [n, l], of `codebooks.base.Quantised`; zeros before the codes start.
    """

    ids: Tensor
    penalty: Tensor


class PlaceNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of a grid [n, c, h, w].

    Statistics over the whole image would let the background scale the objects, and the same object would get other
    codes in another image.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that nn.LayerNorm has
        """Normalise each place."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """A 3x3 and a 1x1 convolution beside the identity, which the block starts as."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = PlaceNorm(width)
        self.inner, self.outer = nn.Conv2d(width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, width, 1)
        nn.init.kaiming_normal_(self.inner.weight, nonlinearity="relu")
        nn.init.normal_(self.outer.weight, std=1e-3)

    def forward(self, grid: Float[Tensor, "n c r q"]) -> Float[Tensor, "n c r q"]:
        """Add what the convolutions make of the grid."""
        added: Tensor = self.outer(F.gelu(self.inner(self.norm(grid))))
        return grid + added


class ImageCodes(Stepwise):
    """Images -> tokens that are vectors of codes, and codes -> images.

    Args:
        config: sizes and quantiser.

    Attributes:
        codes: number of different codes k; ids are 0 to k - 1.
        grid: rows and columns of codes.
        steps: int64 [], optimiser steps trained; part of the run's state.
    """

    steps: Tensor

    def __init__(self, config: ImageCodesConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = config.quantizer.build()
        self.codes, self.grid = self.quantizer.codes, config.grid_of(0)
        self.dim = self.token_dim = self.quantizer.dim
        first, width = min(FIRST_PX, config.stride_px), config.width
        halvings = (config.stride_px // first).bit_length() - 1
        blocks = [ResidualBlock(width) for _ in range(2 * config.blocks * (halvings + 1))]
        down: list[nn.Module] = [nn.Conv2d(CHANNELS, width, first, stride=first)]
        up: list[nn.Module] = [nn.Conv2d(self.dim, width, 1)]
        for level in range(halvings + 1):
            down += [blocks.pop() for _ in range(config.blocks)]
            up += [blocks.pop() for _ in range(config.blocks)]
            if level < halvings:
                down.append(nn.Conv2d(width, width, 2, stride=2))
                up += [nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2)]
        self.encoder = nn.Sequential(*down, PlaceNorm(width), nn.Conv2d(width, self.dim, 1))
        last = nn.Conv2d(width, 2 * CHANNELS * first**2, 3, padding=1)
        self.decoder = nn.Sequential(*up, PlaceNorm(width), last, nn.PixelShuffle(first))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._seen: list[Tensor] = []

    @property
    def has_started(self) -> bool:
        """Whether the codes have started; before, the decoder is trained on continuous vectors."""
        return int(self.steps) >= self.config.continuous_steps

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode images with values in [-1, 1], of the size that the tower was built for.

        The values are the vectors of the hard codes, to the last bit. In training they are what the quantiser gives the
        decoder: continuous vectors before the codes start, and with "gumbel" mixtures of codes.

        Returns:
            `CodedTokens`.
        """
        grid = self.encoder(image.contiguous(memory_format=torch.channels_last))
        latents = grid.flatten(2).transpose(1, 2).float()
        flat = latents.flatten(0, 1)
        if self.training and self.encoder[0].weight.requires_grad:
            self._seen.append(flat.detach())
        if self.training and not self.has_started:
            values = self.quantizer.bounded(flat)
            ids, penalty = self.quantizer.ids(flat), torch.zeros_like(flat[:, 0])
        else:
            values, ids, penalty = self.quantizer(flat, int(self.steps) - self.config.continuous_steps)
        rows = values.view_as(latents).to(image.dtype)
        is_real = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        tokens = CodedTokens(rows, is_real, rows.mean(1))
        tokens.ids, tokens.penalty = ids.view(rows.shape[:2]), penalty.view(rows.shape[:2])
        return tokens

    @torch.no_grad()
    def ids(self, image: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n l"]:
        """The hard code of each cell of images with values in [-1, 1], row by row."""
        grid = self.encoder(image.contiguous(memory_format=torch.channels_last))
        latents = grid.flatten(2).transpose(1, 2).float()
        return self.quantizer.ids(latents.flatten(0, 1)).view(latents.shape[:2])

    @torch.no_grad()
    def ids_of(self, values: Float[Tensor, "n l d"]) -> Int[Tensor, "n l"]:
        """The codes that tokens of this tower belong to, also after the feature cache or in bf16.

        Exact; of codes with the same vector, whose images are the same, the first.
        """
        return self.quantizer.ids_of(values.float().flatten(0, 1)).view(values.shape[:2])

    @torch.no_grad()
    def pixels(self, ids: Int[Tensor, "n l"]) -> Float[Tensor, "n 3 h w"]:
        """The image of each grid of codes, float32 in [0, 1]."""
        return pixels_of(self.decode(self.quantizer.vectors(ids.flatten()).view(*ids.shape, self.dim)))

    def decode(self, values: Float[Tensor, "n l d"]) -> Float[Tensor, "n 6 h w"]:
        """Vectors of codes -> for each colour of each pixel a location mu, then a log scale, float32.

        They are those of a logit-Laplace distribution; `pixels_of` turns the locations into an image.
        """
        weight = cast(Tensor, self.decoder[0].weight)
        grid = values.transpose(1, 2).unflatten(2, self.grid).to(weight.dtype)
        decoded: Tensor = self.decoder(grid.contiguous(memory_format=torch.channels_last))
        return decoded.float()

    def finish_step(self, computed: Stepwise) -> None:
        """Count the step; start the codes at the end of the continuous steps, and after that let them follow."""
        assert isinstance(computed, ImageCodes)
        if not (computed.training and computed.encoder[0].weight.requires_grad):
            return
        seen = torch.cat(computed._seen) if computed._seen else self.steps.new_zeros(0, self.dim).float()
        computed._seen.clear()
        latents, step = gather_with_gradient(seen), int(self.steps)
        self.steps += 1
        if not len(latents):
            return
        if step + 1 == self.config.continuous_steps:
            self.quantizer.start(latents, step)
        elif step >= self.config.continuous_steps:
            self.quantizer.finish_step(latents, step)


def pixels_of(decoded: Float[Tensor, "n 6 h w"], is_clamped: bool = True) -> Float[Tensor, "n 3 h w"]:
    """The image in [0, 1] that locations stand for: (sigmoid(mu) - `EPSILON`) / (1 - 2 `EPSILON`).

    Unclamped, values reach from -1/8 to 9/8, and the gradient does not vanish beyond black and white.
    """
    image = (decoded[:, :CHANNELS].sigmoid() - EPSILON) / (1 - 2 * EPSILON)
    return image.clamp(0, 1) if is_clamped else image
