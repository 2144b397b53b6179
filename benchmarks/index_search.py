"""Exact and approximate search: `python benchmarks/index_search.py [VECTORS] [DIM] [ROUNDS] [--kinds KIND ...]`.

Vectors lie in clusters of clusters, as those of photos do. Exact search stands against faiss's flat index on the same
vectors, one query and several at once. Approximate kinds stand against exact search, with recall@10, the size of their
file and the time to make it; candidates are compared again with whole vectors, as the index does it. Memory: about 6
bytes times 4 a number (a million vectors of 512: 12 GB with all kinds one after the other). Prints tables.
"""

import argparse
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from chiasm.serve.index.matrix import Matrix
from chiasm.serve.index.store import rescored
from timing import compare, show

QUERIES, NEIGHBOURS = 64, 10
KINDS: dict[str, tuple[str, tuple[float, ...]]] = {
    "IVF,PQx4fs": ("IVF{lists},PQ{half}x4fs", (1 / 128, 1 / 64, 1 / 32)),
    "IVF,SQ8": ("IVF{lists},SQ8", (1 / 128, 1 / 64, 1 / 32)),
    "IVF,Flat": ("IVF{lists},Flat", (1 / 128, 1 / 64, 1 / 32)),
    "HNSW32": ("HNSW32", (64, 128, 256)),
}
"""Name -> faiss's own description, and the share of lists that are looked into (for HNSW: `efSearch`)."""


def clustered(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors float32 [n, e] in clusters of clusters, whose centres are the same for every seed."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    coarse = fixed.standard_normal((100, dim), dtype=np.float32)
    fine = coarse[fixed.integers(0, 100, 5000)] + 0.7 * fixed.standard_normal((5000, dim), dtype=np.float32)
    rows = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 50_000):
        some = min(50_000, count - start)
        rows[start : start + some] = fine[rng.integers(0, 5000, some)]
        rows[start : start + some] += 0.7 * rng.standard_normal((some, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def exact(matrix: Matrix, queries: np.ndarray, rounds: int) -> list[set[int]]:
    """Print exact search against faiss's flat index; return the true neighbours of each query."""
    flat = faiss.IndexFlatIP(matrix.vectors.shape[1])
    flat.add(matrix.vectors)
    for some in (1, 2, 4, 16):
        asked = queries[:some]
        told = f"exact, {some} at once"
        candidates: dict[str, Callable[[], object]] = {
            "faiss IndexFlatIP": lambda asked=asked: flat.search(asked, NEIGHBOURS),  # type: ignore[misc]
            "chiasm exact": lambda asked=asked: matrix.nearest(asked, NEIGHBOURS),  # type: ignore[misc]
        }
        show(told, compare(candidates, rounds))
    found = matrix.nearest(queries, NEIGHBOURS)
    theirs = flat.search(queries, NEIGHBOURS)[1]
    same = np.mean([len({n for n, _ in one} & set(other.tolist())) for one, other in zip(found, theirs, strict=True)])
    print(f"  neighbours that both name: {same / NEIGHBOURS:.4f}")
    return [{number for number, _ in one} for one in found]


def approximate(matrix: Matrix, queries: np.ndarray, truth: list[set[int]], rounds: int, kinds: list[str]) -> None:
    """Print these approximate kinds against exact search."""
    count, dim = matrix.vectors.shape
    lists = 2 ** round(np.log2(4 * np.sqrt(count)))
    for name in kinds:
        description, settings = KINDS[name]
        start = time.perf_counter()
        index = faiss.index_factory(dim, description.format(lists=lists, half=dim // 2), faiss.METRIC_INNER_PRODUCT)
        index.train(matrix.vectors[:: max(1, count // (64 * lists))])
        index.add(matrix.vectors)
        made_s, size = time.perf_counter() - start, faiss.serialize_index(index).nbytes / 2**20
        for setting in settings:
            if "IVF" in name:
                index.nprobe = max(1, round(lists * setting))
            else:
                index.hnsw.efSearch = int(setting)

            def search(asked: np.ndarray, index: faiss.Index = index) -> list[list[tuple[int, float]]]:
                rows = [np.sort(one[one >= 0]) for one in index.search(asked, 20 * NEIGHBOURS + 16)[1]]
                return rescored(asked, rows, [matrix.vectors[one] for one in rows], NEIGHBOURS)

            hits = [
                len({number for number, _ in one} & right) for one, right in zip(search(queries), truth, strict=True)
            ]
            candidates = {"exact": lambda: matrix.nearest(queries[:1], NEIGHBOURS), name: lambda: search(queries[:1])}
            milliseconds, ratio = compare(candidates, rounds)[name]
            print(
                f"  {name:<12} {setting:<9.4g} recall@10 {sum(hits) / (NEIGHBOURS * len(queries)):.3f}"
                f"   {milliseconds:8.2f} ms   {1 / ratio:6.1f} x as fast as exact"
                f"   made in {made_s:6.0f} s   {size:7.0f} MiB",
                flush=True,
            )
        del index


def main() -> None:
    """Make the vectors and print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("vectors", 1_000_000), ("dim", 512), ("rounds", 9)):
        parser.add_argument(name, type=int, nargs="?", default=usual, help=str(usual))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="of approximate search")
    typed = parser.parse_args()
    count, dim, rounds = typed.vectors, typed.dim, typed.rounds
    faiss.omp_set_num_threads(torch.get_num_threads())
    matrix = Matrix(np.arange(count), clustered(count, dim, 0))
    queries = clustered(QUERIES, dim, 1)
    print(f"{count:,} vectors of {dim}, {torch.get_num_threads()} threads, {rounds} rounds", flush=True)
    truth = exact(matrix, queries, rounds)
    print("approximate, one query, candidates compared again with whole vectors")
    approximate(matrix, queries, truth, rounds, typed.kinds)


if __name__ == "__main__":
    main()
