"""An image tokenizer: image -> a grid of codes -> image; trained from scratch by the task `reconstruction`.

The first half of DALL-E (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1): a model of words can
then write images as it writes words. The quantiser between encoder and decoder is one of `models.codebooks`.

Training has three parts, since from random weights and vectors the codes of images that are mostly background collapse
to one (docs/log.md). After the first step encoder and decoder become the principal components of its patches
(`encoders.patch_components`). Then both are trained without the quantiser, on continuous vectors. At the end of
`continuous_steps` the codes start from the vectors of that step.

Axis legend: n images, h/w height and width in pixels, l cells of the grid (row by row), q codes of an image, d width of
a cell's vector.
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
from chiasm.models.codebooks.quantizer import CHANNELS
from chiasm.models.codebooks.vector import VectorConfig
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig, above_zero
from chiasm.models.encoders.patch_components import principal_components, regression
from chiasm.models.stepwise import Stepwise

EPSILON = 0.1
"""Pixels x in [0, 1] are modelled as (1 - 2 `EPSILON`) x + `EPSILON` (Ramesh et al. 2021, appendix A.3)."""
LEAST_ERROR = 0.02
"""Smallest scale, in logits, that a colour of a pixel starts with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCodesConfig(ImageTowerConfig):
    """A grid of discrete codes with the decoder that turns them into an image again, trained from scratch."""

    kind: Literal["image_codes"] = "image_codes"
    stride_px: int = 8
    """Side of the square of pixels that a code stands for; a power of two that divides the size."""
    width: int = 128
    """Channels of encoder and decoder."""
    encoder_blocks: int = 0
    """Residual blocks of the encoder. Without any, the code of a cell depends on its pixels alone, so that equal cells
    have equal codes."""
    decoder_blocks: int = 2
    """Residual blocks of the decoder, which see a cell's neighbours."""
    continuous_steps: int = 100
    """Steps before the codes start, at least 2: the decoder gets the encoder's vectors themselves."""
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
        above_zero("model.image.width", self.width)
        if self.continuous_steps < 2:
            raise InputError(
                f"model.image.continuous_steps is {self.continuous_steps}",
                "2 or more: one to start the weights, one to start the codes",
                "--set model.image.continuous_steps=100",
            )
        self.quantizer.check("model.image.quantizer")
        if self.quantizer.reads_pixels and self.encoder_blocks:
            raise InputError(
                f"model.image.encoder_blocks is {self.encoder_blocks}, and model.image.quantizer.kind "
                f"{self.quantizer.kind!r} reads pixels",
                "no encoder",
                "--set model.image.encoder_blocks=0, or another model.image.quantizer.kind",
            )
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
        ids: int64 [n, q], the hard codes.
        penalty: float32 [n, l], of `codebooks.quantizer.Quantised`; zeros before the codes start.
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
    """A 3x3 convolution of each channel and two 1x1 convolutions beside the identity, which the block starts as.

    Liu et al. 2022, "A ConvNet for the 2020s", section 2.6, with a hidden width of twice the channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = PlaceNorm(width)
        self.inner, self.outer = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        nn.init.normal_(self.outer.weight, std=1e-3)

    def forward(self, grid: Float[Tensor, "n c r q"]) -> Float[Tensor, "n c r q"]:
        """Add what the convolutions make of the grid."""
        added: Tensor = self.outer(F.gelu(self.inner(self.norm(self.around(grid)))))
        return grid + added


class ImageCodes(Stepwise):
    """Images -> tokens that are vectors of codes, and codes -> images.

    Args:
        config: sizes and quantiser.

    Attributes:
        codes: number of different codes k; ids are 0 to k - 1.
        part_codes: of a cell with several codes, how many ids each may be, see `Quantizer.part_codes`.
        cells: rows and columns of cells.
        grid: rows and columns of codes: those of a cell stand side by side.
        steps: int64 [], optimiser steps that had images; part of the run's state.
    """

    steps: Tensor

    def __init__(self, config: ImageCodesConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = config.quantizer.build(config.stride_px)
        self.codes, self.part_codes, self.cells = self.quantizer.codes, self.quantizer.part_codes, config.grid_of(0)
        self.grid = (self.cells[0], self.cells[1] * len(self.part_codes))
        self.dim = self.token_dim = self.quantizer.dim
        stride, width = config.stride_px, config.width
        self.encoder = nn.Sequential()
        if not self.config.quantizer.reads_pixels:
            self.encoder.append(nn.Conv2d(CHANNELS, width, stride, stride=stride))
            self.encoder.extend(ResidualBlock(width) for _ in range(config.encoder_blocks))
            self.encoder.append(nn.Conv2d(width, self.dim, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(self.quantizer.shown_dim, width, 1),
            *(ResidualBlock(width) for _ in range(config.decoder_blocks)),
            nn.Conv2d(width, 2 * CHANNELS * stride**2, 1),
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._seen: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        """A weight that training changes, for its number format and device."""
        return cast(nn.Conv2d, self.decoder[0]).weight

    @property
    def codes_per_image(self) -> int:
        """Number of codes of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def is_learning(self) -> bool:
        """Whether a training step changes the tower."""
        return self.training and self.weight.requires_grad

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
        latents = self._latents(image)
        flat = latents.flatten(0, 1)
        if self.is_learning:
            self._seen.append((flat if int(self.steps) else self._patches(image)).detach())
        if self.training and not self.has_started:
            values = self.quantizer.bounded(flat)
            ids, penalty = self.quantizer.ids(flat), torch.zeros_like(flat[:, 0])
        else:
            values, ids, penalty = self.quantizer(flat, int(self.steps) - self.config.continuous_steps)
        rows = values.view_as(latents).to(image.dtype)
        is_real = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        tokens = CodedTokens(rows, is_real, rows.mean(1))
        tokens.ids, tokens.penalty = ids.view(len(rows), self.codes_per_image), penalty.view(rows.shape[:2])
        return tokens

    @torch.no_grad()
    def ids(self, image: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n q"]:
        """The hard codes of the cells of images with values in [-1, 1], row by row."""
        latents = self._latents(image)
        return self.quantizer.ids(latents.flatten(0, 1)).view(len(latents), self.codes_per_image)

    @torch.no_grad()
    def ids_of(self, values: Float[Tensor, "n l d"]) -> Int[Tensor, "n q"]:
        """The codes that tokens of this tower belong to, also after the feature cache or in bf16.

        Exact; of codes with the same vector, whose images are the same, the first.
        """
        return self.quantizer.ids_of(values.float().flatten(0, 1)).view(len(values), self.codes_per_image)

    @torch.no_grad()
    def pixels(self, ids: Int[Tensor, "n q"]) -> Float[Tensor, "n 3 h w"]:
        """The image of each grid of codes, float32 in [0, 1]."""
        cells = self.cells[0] * self.cells[1]
        return pixels_of(self.decode(self.quantizer.vectors(ids.flatten()).view(len(ids), cells, self.dim)))

    def decode(self, values: Float[Tensor, "n l d"]) -> Float[Tensor, "n 6 h w"]:
        """Vectors of codes -> for each colour of each pixel a location mu, then a log scale, float32.

        They are those of a logit-Laplace distribution; `pixels_of` turns the locations into an image.
        """
        shown = self.quantizer.shown(values.flatten(0, 1)).view(*values.shape[:2], self.quantizer.shown_dim)
        grid = shown.transpose(1, 2).unflatten(2, self.cells).to(self.weight.dtype)
        decoded = self.decoder(grid.contiguous(memory_format=torch.channels_last)).float()
        (rows, columns), side = self.cells, self.config.stride_px
        # As `pixel_shuffle`, which does not take a batch of no images.
        pixels = decoded.view(len(decoded), 2 * CHANNELS, side, side, rows, columns).permute(0, 1, 4, 2, 5, 3)
        return pixels.reshape(len(decoded), 2 * CHANNELS, rows * side, columns * side)

    def finish_step(self, computed: Stepwise) -> None:
        """Count a step that had images; start the weights, then the codes, and after that let the codes follow."""
        assert isinstance(computed, ImageCodes)
        if not computed.is_learning:
            return
        step = int(self.steps)
        nothing = self.weight.new_zeros(0, self.dim if step else CHANNELS * self.config.stride_px**2)
        seen = gather_with_gradient(torch.cat(computed._seen) if computed._seen else nothing)
        computed._seen.clear()
        if not len(seen):
            return
        self.steps += 1
        if step == 0:
            self._start_as_components(seen)
        elif step + 1 == self.config.continuous_steps:
            self.quantizer.start(seen, step)
        elif step >= self.config.continuous_steps:
            self.quantizer.finish_step(seen, step)

    def _latents(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n l d"]:
        """Continuous vectors, float32."""
        if self.config.quantizer.reads_pixels:
            cells = self.cells[0] * self.cells[1]
            return self.quantizer.split(self._patches(image)).view(len(image), cells, self.dim)
        grid = self.encoder(image.contiguous(memory_format=torch.channels_last))
        return cast(Tensor, grid).flatten(2).transpose(1, 2).float()

    def _patches(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "m p"]:
        """The pixels of each cell, colour by colour, float32."""
        (rows, columns), side = self.cells, self.config.stride_px
        cells = image.float().reshape(len(image), CHANNELS, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        return cells.reshape(len(image) * rows * columns, CHANNELS * side**2)

    def _start_as_components(self, patches: Float[Tensor, "m p"]) -> None:
        """Let encoder and decoder compute the principal components of patches, as far as they are linear.

        The encoder's channels become the components' scores, and its last layer takes the first ones: each with the
        same variance where the quantiser rounds them, else with their own, so that distances are those of pixels. The
        decoder's last layer becomes the regression of the pixels' logits. A decoder that gets pixels computes the
        scores itself.
        """
        inputs = patches
        if self.config.quantizer.reads_pixels:
            inputs = self.quantizer.shown(self.quantizer.split(patches))
        found = principal_components(inputs, min(self.config.width, inputs.shape[1]))
        if not len(found.std):  # images of one colour
            return
        rows = found.directions / found.std[:, None]
        widen, paint = (cast(nn.Conv2d, self.decoder[place]) for place in (0, -1))
        if self.config.quantizer.reads_pixels:
            set_rows(widen, rows, -(rows @ found.mean))
            read = found.scores(inputs)
        else:
            kept = min(len(found.std), self.dim)
            scale = found.std[:kept] / found.std[:kept].square().mean().sqrt()
            if self.quantizer.is_scalewise:
                scale = torch.ones_like(scale)
            set_rows(cast(nn.Conv2d, self.encoder[0]), rows, -(rows @ found.mean))
            set_rows(cast(nn.Conv2d, self.encoder[-1]), torch.diag(scale), torch.zeros_like(scale))
            set_rows(widen, torch.diag(1 / scale), torch.zeros_like(scale))
            read = self.quantizer.bounded((found.scores(inputs)[:, :kept] * scale).float()) / scale
        within = (patches.double() + 1) / 2 * (1 - 2 * EPSILON) + EPSILON
        weight, bias, error = regression(read, within.logit())
        rows = torch.cat([weight, torch.zeros_like(weight)])
        set_rows(paint, rows, torch.cat([bias, error.clamp_min(LEAST_ERROR).log()]))


def set_rows(layer: nn.Conv2d, rows: Float[Tensor, "o i"], bias: Float[Tensor, " o"]) -> None:
    """Set the first o outputs of a convolution: weights of the first i numbers that they read, zero for the others."""
    weight = layer.weight.data[: len(rows)].flatten(1)
    weight.zero_()[:, : rows.shape[1]] = rows.to(weight)
    layer.weight.data[: len(rows)] = weight.view(len(rows), *layer.weight.shape[1:])
    assert layer.bias is not None
    layer.bias.data[: len(rows)] = bias.to(layer.bias)


def pixels_of(decoded: Float[Tensor, "n 6 h w"], is_clamped: bool = True) -> Float[Tensor, "n 3 h w"]:
    """The image in [0, 1] that locations stand for: (sigmoid(mu) - `EPSILON`) / (1 - 2 `EPSILON`).

    Unclamped, values reach from -1/8 to 9/8, and the gradient does not vanish beyond black and white.
    """
    image = (decoded[:, :CHANNELS].sigmoid() - EPSILON) / (1 - 2 * EPSILON)
    return image.clamp(0, 1) if is_clamped else image
