"""k-means: the codes that a codebook starts with.

Axis legend: m vectors, d width, k codes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.codebooks.quantizer import nearest

ROUNDS = 10
"""Rounds of Lloyd's algorithm; the codes go on moving in training."""


def spread_rows(
    vectors: Float[Tensor, "m d"], count: int, generator: torch.Generator, distance: Float[Tensor, " m"] | None = None
) -> Int[Tensor, " c"]:
    """Draw rows one by one, each with a probability proportional to its squared distance from those drawn before.

    The start of k-means++ (Arthur and Vassilvitskii 2007, section 2.2). On images of which most is background, rare
    vectors are found where a uniform draw would take the background again and again.

    Args:
        vectors: to draw from.
        count: how many; fewer are returned where no vector differs from those drawn.
        generator: of the CPU.
        distance: squared distance of each vector from what exists already; None draws the first uniformly.

    Returns:
        Rows of `vectors`.
    """
    chosen: list[int] = []
    if distance is None:
        chosen.append(int(torch.randint(len(vectors), (), generator=generator)))
        distance = (vectors - vectors[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        total = distance.double().cumsum(0)
        if not total[-1] > 0:
            break
        drawn = torch.rand((), generator=generator, dtype=torch.float64).to(total.device) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, drawn, right=True)), len(vectors) - 1))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, dtype=torch.long, device=vectors.device)


def k_means(vectors: Float[Tensor, "m d"], codes: int, seed: int) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Centres of k clusters, and the number of vectors of each, float32.

    Where there are fewer different vectors than codes, further centres are vectors drawn uniformly; no vector counts
    for them.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = spread_rows(vectors, codes, generator)
    more = torch.randint(len(vectors), (codes - len(chosen),), generator=generator).to(chosen.device)
    centres = vectors[torch.cat([chosen, more])].clone()
    for _ in range(ROUNDS):
        counts, sums = cluster_sums(vectors, nearest(vectors, centres), codes)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
    return centres, cluster_sums(vectors, nearest(vectors, centres), codes)[0]


def cluster_sums(
    vectors: Float[Tensor, "m d"], ids: Int[Tensor, " m"], codes: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """Number and sum of the vectors of each code."""
    counts = torch.bincount(ids, minlength=codes).to(vectors.dtype)
    return counts, vectors.new_zeros(codes, vectors.shape[1]).index_add(0, ids, vectors)
