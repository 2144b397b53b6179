"""An image as a few keypoints, each with features, coordinates, and attention biased by distance.

For images of few objects at any place, and questions about their relative positions. A grid of tokens splits an object
into parts, and the distance of two objects has to be learned from position embeddings; here each learned query selects
one point of the image (the spatial softmax of Levine et al. 2016, "End-to-End Training of Deep Visuomotor Policies",
section 5.1), whose coordinates are known, and attention among points depends on distance from the first step on (as
between words in Press et al. 2022, "Train Short, Test Long", section 3, and between nodes in Ying et al. 2021, "Do
Transformers Really Perform Bad for Graph Representation?", equation 6). docs/log.md compares this with a grid and with
tokens of pairs.

Axis legend: n images, g cells of the grid, l points, d width, h heads, q query points, k key points.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.encoders.base import EncoderShape, ImageTowerConfig, above_zero
from chiasm.models.encoders.conv import build_stem, halved, start_stem
from chiasm.models.transformer import Attention, init_weights

POINT_GAIN, VALUE_GAIN, OWN_STD = 4.0, 2.0, 0.25
"""Initial scales: of a query's logits over the grid, of the gathered values, and of the query's own embedding.

A query that starts with a uniform softmax, the image's mean, stays there for a thousand steps."""
STEEPEST = 8.0
"""Initial slopes of the heads run from -`STEEPEST` (prefers near points) to +`STEEPEST` (far); the image is 2 wide."""
SELF_PENALTY, SAME_WIDTH = 6.0, 0.05
"""A point at distance 0 is the point itself, or another query on the same object; both are penalised in attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeypointConfig(ImageTowerConfig):
    """A few keypoints with coordinates, trained from scratch: for few objects at any place and their relations."""

    kind: Literal["keypoints"] = "keypoints"
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Output channels of the stem's 3x3 convolutions, each of stride 2 and the last of stride 1."""
    points: int = 12
    """Number of keypoints: about twice the number of objects in an image."""
    layers: int = 1
    """Blocks of attention among the keypoints."""

    from_scratch: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`."""
        return KeypointEncoder(self.shape_px, self.channels, shape.dim, self.points, self.layers, shape.heads)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """The grid of the stem's output, from which the keypoints are pooled."""
        return halved(self.shape_px, len(self.channels) - 1)

    def check(self) -> None:
        """See `ImageTowerConfig.check`."""
        ImageTowerConfig.check(self)
        above_zero("model.image.points", self.points)


class DistanceAttention(Attention):
    """Self-attention of points with logits biased by distance r: logits + slope r - penalty exp(-r / `SAME_WIDTH`).

    Slope and penalty are learned for each head.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.slope = nn.Parameter(torch.linspace(-STEEPEST, STEEPEST, heads))
        self.penalty = nn.Parameter(torch.full((heads,), SELF_PENALTY))

    def among(self, x: Float[Tensor, "n l d"], distance: Float[Tensor, "n l l"]) -> Float[Tensor, "n l d"]:
        """Each point attends to all points; `distance` and the logits are float32."""
        query, (key, value) = self.split(self.query(x)), self.keys_values(x)
        r = distance[:, None]
        by_distance = self.slope[:, None, None] * r - self.penalty[:, None, None] * (-r / SAME_WIDTH).exp()
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + by_distance
        mixed = logits.softmax(-1).to(value.dtype) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class DistanceBlock(nn.Module):
    """Pre-norm block of points: attention by distance, then an MLP of four times the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = DistanceAttention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Float[Tensor, "n l d"], distance: Float[Tensor, "n l l"]) -> Float[Tensor, "n l d"]:
        """Apply attention and MLP to the points."""
        x = x + self.attention.among(self.norm(x), distance)
        return x + self.mlp(self.mlp_norm(x))


class KeypointEncoder(nn.Module):
    """uint8-range images -> one token a point, in the order of the queries.

    Args:
        image_size_px: height and width of the input.
        channels: output channels of the stem's 3x3 convolutions, of stride 2 and the last of stride 1.
        dim: token width, a multiple of `heads`.
        points: learned queries, each of which selects one point; two may select the same.
        layers: blocks of attention by distance among the points.
        heads: attention heads.
    """

    def __init__(
        self,
        image_size_px: tuple[int, int],
        channels: tuple[int, ...],
        dim: int,
        points: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.dim, self.length = dim, points
        self.stem, self.grid = build_stem(image_size_px, channels, (*(2 for _ in channels[1:]), 1))
        self.point = nn.Linear(channels[-1], points, bias=False)
        self.value = nn.Linear(channels[-1], dim, bias=False)
        self.place = nn.Linear(2, dim, bias=False)
        self.own = nn.Parameter(torch.randn(points, dim) * OWN_STD)
        self.blocks = nn.ModuleList(DistanceBlock(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_weights)
        start_stem(self.stem)
        nn.init.normal_(self.point.weight, std=POINT_GAIN * channels[-1] ** -0.5)
        nn.init.normal_(self.place.weight)
        with torch.no_grad():
            self.value.weight.mul_(VALUE_GAIN)

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Tokens:
        """Encode images with values in [-1, 1], of the size that the tower was built for.

        `Tokens.places` holds each point's softmax over the grid. Coordinates run from -1, left or top, to 1, in
        float32: in bf16 two objects a pixel apart would have the same coordinates.
        """
        cells = self.stem(image.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        # In mostly empty images the mean is the background and carries no information (`encoders.conv`).
        cells = cells - cells.mean(1, keepdim=True)
        shares = self.point(cells).float().softmax(1).transpose(1, 2)
        places = shares.unflatten(2, self.grid)
        down, across = (torch.linspace(-1, 1, steps, device=image.device) for steps in self.grid)
        at = torch.stack([(places.sum(2) * across).sum(-1), (places.sum(3) * down).sum(-1)], dim=-1)
        x = shares.to(cells.dtype) @ self.value(cells) + self.place(at.to(cells.dtype)) + self.own
        # The distance of a point to itself must not be 0, where the square root has no gradient.
        distance = ((at[:, :, None] - at[:, None]).square().sum(-1) + 1e-4).sqrt()
        for block in self.blocks:
            x = block(x, distance)
        x = self.norm(x)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.mean(1), places)
