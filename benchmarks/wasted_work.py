"""What grew badly, before and after: opening a feature cache, uniformity, decoding of large photos.

    python benchmarks/wasted_work.py --out benchmarks/results/DATE-wasted_work.json

Times are processor seconds, which wait for nobody on a machine that others use. Photos are Flickr8k's, enlarged to the
sizes of a collection (500 x 375 px) and of a phone (4,000 x 3,000 px), JPEG quality 90.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.core.device import environment
from chiasm.core.files import sha256_file
from chiasm.core.resizing import Resizing
from chiasm.data.image import load_image
from chiasm.data.resizing import resize
from chiasm.metrics import classic
from chiasm.pipeline.feature_cache import FeatureCache
from text_encoding import DATA

ROWS, WIDTH, CHUNK = 50_000, 512, 512


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Median processor seconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def read_bytes() -> int:
    """Bytes that this process has asked the kernel for."""
    return int(Path("/proc/self/io").read_text().split()[1])


def cache() -> dict[str, float]:
    """Open a cache of `ROWS` vectors, whose chunks an earlier opening has compared, or not."""
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureCache(Path(folder), "tower")
        rng = np.random.default_rng(0)
        for start in range(0, ROWS, CHUNK):
            keys = [f"{number:064x}" for number in range(start, min(start + CHUNK, ROWS))]
            store.add(keys, rng.standard_normal((len(keys), WIDTH), dtype=np.float32))
        chunks = sorted(Path(folder).rglob("*.safetensors"))
        found = {"rows": float(ROWS), "cache_bytes": float(sum(path.stat().st_size for path in chunks))}
        for name in ("every hash compared", "unchanged since"):
            before, start = read_bytes(), time.process_time()
            FeatureCache(Path(folder), "tower")
            found |= {f"{name}: s": time.process_time() - start, f"{name}: bytes": float(read_bytes() - before)}
        found["hashes alone: s"] = seconds(lambda: [sha256_file(path) for path in chunks], 1)
    return found


def uniformity() -> dict[str, float]:
    """All pairs of 20,000 rows, and the pairs of drawn ones."""
    x = np.random.default_rng(0).standard_normal((20_000, 512)).astype(np.float32)
    drawn = {"drawn: s": seconds(lambda: classic.uniformity(x), 1), "drawn": classic.uniformity(x)}
    most, classic.UNIFORMITY_ROWS = classic.UNIFORMITY_ROWS, len(x)
    try:
        return drawn | {"all: s": seconds(lambda: classic.uniformity(x), 1), "all": classic.uniformity(x)}
    finally:
        classic.UNIFORMITY_ROWS = most


def decoding(photos: int) -> dict[str, dict[str, float]]:
    """Photos of two sizes to 224 px: decoded whole, or at a power of two of their size."""
    names = sorted((DATA / "flickr8k/images").glob("*.jpg"))[:photos]
    found = {}
    for size in ((500, 375), (4000, 3000)):
        files = []
        for name in names:
            written = io.BytesIO()
            Image.open(name).resize(size, Image.Resampling.BICUBIC).save(written, "JPEG", quality=90)
            files.append(written.getvalue())
        found[f"{size[0]} x {size[1]} px"] = at_scales(files)
    return found


def at_scales(files: list[bytes]) -> dict[str, float]:
    """Processor milliseconds a file, and what a smaller scale changes of the pixels (root mean square, of 255)."""
    how = Resizing("cover", (224, 224))

    def decoded(least_px: int | None) -> list[np.ndarray]:
        return [resize(load_image(one, "photo", least_px), how) for one in files]

    whole = decoded(None)
    row = {"whole: ms": seconds(lambda: decoded(None)) / len(files) * 1e3}
    for least in (224, 448):
        pairs = zip(whole, decoded(least), strict=True)
        row[f"at least {least} px: ms"] = seconds(lambda least=least: decoded(least)) / len(files) * 1e3
        row[f"at least {least} px: difference"] = float(
            np.sqrt(np.mean([(a.astype(float) - b) ** 2 for a, b in pairs]))
        )
    return row


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = {
        "cache": cache(),
        "uniformity": uniformity(),
        "decoding": decoding(args.photos),
        "environment": environment(),
    }
    print(json.dumps({name: result[name] for name in ("cache", "uniformity", "decoding")}, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
