"""k-means: the codes that a codebook starts with.

Axis legend: m vectors, d width, k codes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.codebooks.quantizer import nearest

ROUNDS = 10
"""Rounds of Lloyd's algorithm; the codes go on moving in training."""
LEAST_DISTANCE = 1e-3
"""Squared distance, as a share of the vectors' variance, within which a vector counts as found: the background of
images differs by little from place to place, and would use up the codes."""


def spread_rows(
    vectors: Float[Tensor, "m d"], count: int, generator: torch.Generator, distance: Float[Tensor, " m"] | None = None
) -> Int[Tensor, " c"]:
    """Draw rows one by one, each with a probability proportional to its squared distance from those drawn before.

    The start of k-means++ (Arthur and Vassilvitskii 2007, section 2.2), but vectors nearer than `LEAST_DISTANCE` are
    not drawn. On images of which most is background, rare vectors are found where a uniform draw would take the
    background again and again.

    Args:
        vectors: to draw from, at least one.
        count: how many; fewer are returned where every vector is found.
        generator: of the CPU.
        distance: squared distance of each vector from what exists already; None draws the first uniformly.

    Returns:
        Rows of `vectors`.
    """
    chosen: list[int] = []
    least = LEAST_DISTANCE * (vectors - vectors.mean(0)).square().sum(1).mean()
    if distance is None:
        chosen.append(int(torch.randint(len(vectors), (), generator=generator)))
        distance = (vectors - vectors[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        total = distance.double().where(distance > least, 0).cumsum(0)
        if not total[-1] > 0:
            break
        drawn = torch.rand((), generator=generator, dtype=torch.float64).to(total.device) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, drawn, right=True)), len(vectors) - 1))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, dtype=torch.long, device=vectors.device)


def k_means(vectors: Float[Tensor, "m d"], codes: int, seed: int) -> tuple[Float[Tensor, "c d"], Float[Tensor, " c"]]:
    """Centres of at most k clusters, and the number of vectors of each, float32.

    Where fewer vectors differ than codes are asked for, there are fewer centres; at least one.
    """
    centres = vectors[spread_rows(vectors, codes, torch.Generator().manual_seed(seed))].clone()
    for _ in range(ROUNDS):
        counts, sums = cluster_sums(vectors, nearest(vectors, centres), len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
    return centres, cluster_sums(vectors, nearest(vectors, centres), len(centres))[0]


def cluster_sums(
    vectors: Float[Tensor, "m d"], ids: Int[Tensor, " m"], codes: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """Number and sum of the vectors of each code."""
    counts = torch.bincount(ids, minlength=codes).to(vectors.dtype)
    return counts, vectors.new_zeros(codes, vectors.shape[1]).index_add(0, ids, vectors)
