"""A picture as a handful of points: what stands at each, where it is, and how far it is from the others.

For pictures of few things at any place, and questions about how these lie to each other. A grid of tokens cuts a thing
into pieces and leaves the distance of two things to be learned from learned positions; here each learned query picks
one point of the picture (the spatial softmax of Levine et al. 2016, "End-to-End Training of Deep Visuomotor Policies",
section 5.1), whose coordinates are numbers, and points look at each other by distance from the first step on (as words
do in Press et al. 2022, "Train Short, Test Long", section 3, and nodes in Ying et al. 2021, "Do Transformers Really
Perform Bad for Graph Representation?", equation 6). docs/log.md compares this with a grid and with tokens of pairs.

Axis legend: n pictures, g places of the grid, l points, d width, h heads, q and k points that look and are looked at.
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
"""How large at the start: a query's preference among places, what it gathers there, and that it is this query.

A query that starts on a whole picture's mean stays there for a thousand steps."""
STEEPEST = 8.0
"""Heads start with slopes from minus this, the nearest point, to plus this, the farthest; the picture is 2 wide."""
SELF_PENALTY, SAME_WIDTH = 6.0, 0.05
"""A point at distance 0 is itself, or another query that picked the same thing: neither is the nearest neighbour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeypointConfig(ImageTowerConfig):
    """A few keypoints with positions, trained from scratch: for few objects at any place and how they lie."""

    kind: Literal["keypoints"] = "keypoints"
    channels: tuple[int, ...] = (32, 64, 128, 128)
    """Output channels of the stem's 3x3 convolutions, each of stride 2 and the last of stride 1."""
    points: int = 12
    """Number of keypoints: about twice as many as an image shows objects."""
    layers: int = 1
    """Blocks of attention among the keypoints."""

    from_scratch: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `ImageTowerConfig.build`."""
        return KeypointEncoder(self.shape_px, self.channels, shape.dim, self.points, self.layers, shape.heads)

    def grid_of(self, tokens: int) -> tuple[int, int]:
        """The grid that the stem makes, from which the keypoints are pooled."""
        return halved(self.shape_px, len(self.channels) - 1)

    def check(self) -> None:
        """See `ImageTowerConfig.check`."""
        ImageTowerConfig.check(self)
        above_zero("model.image.points", self.points)


class DistanceAttention(Attention):
    """Self-attention of points whose logits start from distance: logits + slope r - penalty exp(-r / `SAME_WIDTH`).

    Slope and penalty are learned, one each a head.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.slope = nn.Parameter(torch.linspace(-STEEPEST, STEEPEST, heads))
        self.penalty = nn.Parameter(torch.full((heads,), SELF_PENALTY))

    def among(self, x: Float[Tensor, "n l d"], distance: Float[Tensor, "n l l"]) -> Float[Tensor, "n l d"]:
        """Each point looks at all; `distance` is in float32, and so are the logits."""
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
        """Points that have looked at the others."""
        x = x + self.attention.among(self.norm(x), distance)
        return x + self.mlp(self.mlp_norm(x))


class KeypointEncoder(nn.Module):
    """uint8-range pictures -> one token a point, in the order of the queries.

    Args:
        image_size_px: height and width of the input.
        channels: output channels of the stem's 3x3 convolutions, of stride 2 and the last of stride 1.
        dim: token width, a multiple of `heads`.
        points: learned queries, each of which picks one point; two may pick the same.
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
        """Encode pictures with values in [-1, 1], already of the size the tower was built for.

        `Tokens.places` says from where each token was gathered. Coordinates run from -1, left or top, to 1 and are
        computed in float32: in bf16 two things a pixel apart would lie at the same place.
        """
        cells = self.stem(image.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        # Mostly empty pictures: their mean is the background, and says nothing of what is drawn (`encoders.conv`).
        cells = cells - cells.mean(1, keepdim=True)
        shares = self.point(cells).float().softmax(1).transpose(1, 2)
        places = shares.unflatten(2, self.grid)
        down, across = (torch.linspace(-1, 1, steps, device=image.device) for steps in self.grid)
        at = torch.stack([(places.sum(2) * across).sum(-1), (places.sum(3) * down).sum(-1)], dim=-1)
        x = shares.to(cells.dtype) @ self.value(cells) + self.place(at.to(cells.dtype)) + self.own
        # A point's distance to itself is not 0: the root has no gradient there.
        distance = ((at[:, :, None] - at[:, None]).square().sum(-1) + 1e-4).sqrt()
        for block in self.blocks:
            x = block(x, distance)
        x = self.norm(x)
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.mean(1), places)
