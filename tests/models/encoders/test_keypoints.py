"""Keypoints: a slow way of computing them, what they are for, and where they say that they looked."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.models.encoders.keypoints import DistanceBlock, KeypointEncoder

SIZE_PX = (16, 24)


def tower(**change: int) -> KeypointEncoder:
    torch.manual_seed(0)
    sizes = {"dim": 12, "points": 3, "layers": 2, "heads": 4} | change
    return KeypointEncoder(SIZE_PX, (6, 8), **sizes).eval()


def drawn(row: int, column: int) -> Tensor:
    """A grey picture with one red square of four pixels, its top left corner there."""
    picture = torch.zeros(1, 3, *SIZE_PX)
    picture[0, 0, row : row + 4, column : column + 4] = 1
    return picture


def by_loops(tower: KeypointEncoder, picture: Tensor) -> tuple[Tensor, Tensor]:
    """The tower's tokens [l, d] and places [l, r, c] of one picture in float64, cell by cell and point by point."""
    tower = tower.double()
    grid = tower.stem(picture.double())[0]
    rows, columns = grid.shape[1:]
    cells = [grid[:, row, column] for row in range(rows) for column in range(columns)]
    where = [(2 * c / (columns - 1) - 1, 2 * r / (rows - 1) - 1) for r in range(rows) for c in range(columns)]
    mean = sum(cells) / len(cells)
    points, at, places = [], [], []
    for query in tower.point.weight:
        powers = [math.exp(float(query @ (cell - mean))) for cell in cells]
        shares = [power / sum(powers) for power in powers]
        places.append(torch.tensor(shares, dtype=torch.float64).view(rows, columns))
        at.append([sum(share * place[axis] for share, place in zip(shares, where, strict=True)) for axis in (0, 1)])
        mixed = sum(share * (cell - mean) for share, cell in zip(shares, cells, strict=True))
        points.append(tower.value.weight @ mixed)
    x = [
        value + tower.place.weight @ torch.tensor(place, dtype=torch.float64) + own
        for value, place, own in zip(points, at, tower.own, strict=True)
    ]
    for block in tower.blocks:
        x = one_block(block, x, at)
    normed = [F.layer_norm(one, (len(one),), tower.norm.weight, tower.norm.bias) for one in x]
    return torch.stack(normed), torch.stack(places)


def one_block(block: DistanceBlock, x: list[Tensor], at: list[list[float]]) -> list[Tensor]:
    attention, width = block.attention, len(x[0]) // block.attention.heads
    seen = [block.norm(one) for one in x]
    found = []
    for i, looking in enumerate(seen):
        heads = []
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            powers, values = [], []
            for j, looked_at in enumerate(seen):
                key, value = attention.key_value(looked_at).chunk(2)
                r = math.sqrt((at[i][0] - at[j][0]) ** 2 + (at[i][1] - at[j][1]) ** 2 + 1e-4)
                logit = float(attention.query(looking)[part] @ key[part]) / math.sqrt(width)
                logit += float(attention.slope[head]) * r - float(attention.penalty[head]) * math.exp(-r / 0.05)
                powers.append(math.exp(logit))
                values.append(value[part])
            heads.append(sum(p * v for p, v in zip(powers, values, strict=True)) / sum(powers))
        found.append(x[i] + attention.out(torch.cat(heads)))
    return [one + block.mlp(block.mlp_norm(one)) for one in found]


@torch.no_grad()
@pytest.mark.parametrize("layers", [0, 2])
def test_same_as_by_loops(layers: int) -> None:
    """Guards against rows taken for columns, shares over the wrong axis, and a sign of distance or penalty."""
    picture = drawn(4, 16) + 0.1 * torch.randn(1, 3, *SIZE_PX, generator=torch.Generator().manual_seed(1))
    one = tower(layers=layers)
    for block in one.blocks:
        block.attention.slope.add_(torch.randn(4))  # type: ignore[union-attr,operator]
        block.attention.penalty.mul_(0.5)  # type: ignore[union-attr,operator]
    fast = one(picture)
    values, places = by_loops(one, picture)
    torch.testing.assert_close(fast.values[0].double(), values, rtol=1e-4, atol=1e-4)
    assert fast.places is not None
    torch.testing.assert_close(fast.places[0].double(), places, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_point_moves_with_the_thing() -> None:
    """Guards against places that say something else than where the token was gathered."""
    one = tower(layers=0)
    here, there = one(drawn(4, 4)).places[0], one(drawn(8, 16)).places[0]
    assert here.shape == (3, 8, 12)
    torch.testing.assert_close(here.sum((1, 2)), torch.ones(3))
    # The stem halves once: 4 pixels down are 2 rows, 12 to the right are 6 columns.
    torch.testing.assert_close(there[:, 3:7, 7:12], here[:, 1:5, 1:6], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_heads_start_from_the_nearest_to_the_farthest() -> None:
    """Guards against heads that start alike, and points that are their own neighbour: "closest" is then luck."""
    attention = DistanceBlock(16, 4).attention
    for part in (attention.query, attention.key_value, attention.out):
        part.weight.zero_()
        part.bias.zero_()
    attention.key_value.weight[16:] = torch.eye(16)
    attention.out.weight.copy_(torch.eye(16))
    at = torch.tensor([0.0, 0.3, 0.8, 1.4])
    # Each head's part of point j is the j-th unit vector: what comes out are the weights.
    shares = attention.among(torch.eye(4).repeat(1, 4)[None], (at[:, None] - at).abs()[None])[0].view(4, 4, 4)
    nearest, farthest = shares[:, 0], shares[:, -1]
    assert nearest.argmax(1).tolist() == [1, 0, 1, 2]
    assert farthest.argmax(1).tolist() == [3, 3, 0, 0]
