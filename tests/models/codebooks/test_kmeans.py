"""k-means against a slow loop, and a start that finds rare vectors."""

import torch

from chiasm.models.codebooks.kmeans import cluster_sums, k_means, spread_rows


def clusters() -> torch.Tensor:
    """1,000 vectors: 990 are background, ten are rare things far from it and from each other."""
    generator = torch.Generator().manual_seed(0)
    background = 0.003 * torch.randn(990, 3, generator=generator)
    rare = 5 * torch.randn(10, 3, generator=generator)
    return torch.cat([background, rare])[torch.randperm(1000, generator=generator)]


def test_sums_and_counts_are_those_of_a_slow_loop() -> None:
    """Guards against an index_add over the wrong axis."""
    vectors, ids = torch.arange(12.0).view(4, 3), torch.tensor([1, 0, 1, 3])
    counts, sums = cluster_sums(vectors, ids, 5)
    assert counts.tolist() == [1, 2, 0, 1, 0]
    assert sums.tolist() == [[3, 4, 5], [6, 8, 10], [0, 0, 0], [9, 10, 11], [0, 0, 0]]


def test_rare_vectors_get_codes_of_their_own() -> None:
    """Guards against a uniform draw: among 990 background vectors it finds a rare one in one of a hundred."""
    vectors = clusters()
    centres, counts = k_means(vectors, 40, seed=0)
    assert len(centres) == 11  # the background is one
    rare = vectors[vectors.norm(dim=1) > 1]
    assert torch.cdist(rare, centres).amin(1).max() < 0.5
    assert counts.sum() == 1000


def test_centres_are_the_means_of_their_vectors() -> None:
    """Guards against a round that ends between assignment and mean; a fixed point of Lloyd's algorithm is reached."""
    vectors = clusters()
    centres, counts = k_means(vectors, 5, seed=0)
    assert len(centres) == 5
    ids = torch.cdist(vectors, centres).argmin(1)
    for code in range(5):
        assert counts[code] == (ids == code).sum()
        if counts[code]:
            assert torch.allclose(centres[code], vectors[ids == code].mean(0), atol=1e-3)


def test_fewer_vectors_than_codes_are_enough() -> None:
    """Guards against a start that never ends, or 0 / 0, where all vectors are found already."""
    vectors = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
    centres, counts = k_means(vectors, 6, seed=0)
    assert sorted(centres.tolist()) == [[0, 1], [2, 3]] and sorted(counts.tolist()) == [1, 2]
    assert k_means(torch.ones(4, 2), 3, seed=0)[0].tolist() == [[1, 1]]
    assert spread_rows(vectors, 6, torch.Generator().manual_seed(0)).tolist() in ([0, 1], [1, 0], [1, 2], [2, 1])


def test_a_draw_depends_on_the_distance_alone() -> None:
    """Guards against rows that are drawn although something is there already."""
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    drawn = [
        int(spread_rows(vectors, 1, torch.Generator().manual_seed(seed), torch.tensor([0.0, 1.0, 3.0])))
        for seed in range(2000)
    ]
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / 2000
    assert shares[0] == 0 and abs(shares[2] - 0.75) < 0.04
