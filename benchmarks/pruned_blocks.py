"""What a pruned text tower gains in time: `python benchmarks/pruned_blocks.py [--json FILE]`.

Six blocks of width 512 with random weights, 16 texts of 64 tokens, one thread; a quarter and a half of the heads and of
the hidden units are removed. Interleaved rounds, medians, ratios to the whole tower. It says nothing about scores.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.models.pruning import choose, prunable, prune
from chiasm.models.transformer import Block
from timing import compare

DIM, HEADS, LAYERS, TEXTS, TOKENS = 512, 8, 6, 16, 64
SHARES = {"whole": 0.0, "pruned25": 0.25, "pruned50": 0.5}


def tower(share: float) -> nn.Sequential:
    """Blocks with random weights, pruned by random scores."""
    torch.manual_seed(0)
    made = nn.Sequential(*(Block(DIM, HEADS) for _ in range(LAYERS))).eval()
    prune(made, choose({name: torch.rand(parts) for name, parts in prunable(made).items()}, share))
    return made


def main() -> None:
    """Print and write times and weights."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    towers = {name: tower(share) for name, share in SHARES.items()}
    x = torch.randn(TEXTS, TOKENS, DIM)
    with torch.no_grad():
        found = compare({name: (lambda one=one: one(x)) for name, one in towers.items()}, rounds=15)  # type: ignore[misc]
    weights = {name: sum(one.numel() for one in made.parameters()) for name, made in towers.items()}
    rows = {}
    for name, (milliseconds, ratio) in found.items():
        rows[name] = {"ms": milliseconds, "speed": 1 / ratio, "weights": weights[name] / weights["whole"]}
        sys.stdout.write(
            f"{name:<10} {milliseconds:8.1f} ms, {1 / ratio:.2f} times as fast, "
            f"{100 * weights[name] / weights['whole']:.1f} % of the weights\n"
        )
    if given.json:
        write_json(given.json, {"rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
