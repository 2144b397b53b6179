"""A CLIP ViT-B/32 of full size beside other engines: `python benchmarks/engines.py [ROUNDS] [BATCH]`.

Random weights, photos and captions of Flickr8k's validation split, 32 at once; needs flickr8k and clip_bpe below
CHIASM_DATA (../shared/data). It is `chiasm bench` on that folder, kept as benchmarks/results/DATE-engines.json.
"""

import sys
import tempfile
from pathlib import Path

from rich.console import Console

import chiasm
from checkpoints import DATA, make
from chiasm.core.files import write_json
from chiasm.report.speed import bench_tables, limits_lines

RESULTS = Path(__file__).with_name("results")
ROUNDS, BATCH = 5, 32


def main() -> None:
    """Make the folder, measure, print and keep."""
    rounds, batch = (int(word) for word in [*sys.argv[1:], *map(str, (ROUNDS, BATCH)[len(sys.argv) - 1 :])])
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "vit_b_32")
        found = chiasm.bench(Path(place) / "vit_b_32", DATA / "flickr8k", batch=batch, rounds=rounds)
    print("\n".join(limits_lines(found.bench)))
    for table in bench_tables(found.bench):
        Console().print(table, highlight=False)
    for name, reason in found.bench.absent.items():
        print(f"{name}: {reason}")
    told = {**found.as_dict(), "run": "CLIP ViT-B/32, random weights", "data": "flickr8k"}
    write_json(RESULTS / f"{found.date}-engines.json", told)


if __name__ == "__main__":
    main()
