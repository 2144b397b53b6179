"""Speeds in 80 columns, and as bars on a page whose texts are escaped."""

import io

from rich.console import Console

from chiasm.evaluate.speed.compare import Bench, Line
from chiasm.report.speed import bench_page, bench_tables, limits_lines

NAMES = [f"{name}_operations_per_s" for name in ("fp32", "bf16", "int8")]
BENCH = Bench(
    limits={**dict(zip(NAMES, (2e11, 1e11, 8e11), strict=True)), "memory_bytes_per_s": 1.2e10, "jpeg_files_per_s": 150},
    operations={"images": 8.8e9, "texts": 1e9},
    works={
        "images": [
            Line("sentence-transformers <b>", 120.4, 2.5, (0.99991, 0.9998)),
            Line("transformers fp32", 48.0, 1.0, (1.0, 1.0)),
        ],
        "texts": [Line("transformers fp32", 12345.6, 1.0, (1.0, 1.0))],
    },
    baseline="transformers fp32",
    absent={"open_clip": "not installed: pip install open_clip_torch"},
    rows=32,
    rounds=5,
)


def test_tables_fit_a_terminal() -> None:
    """Guards against a line that wraps at 80 columns, and a speed without its accuracy."""
    screen = Console(width=80, file=io.StringIO())
    for table in bench_tables(BENCH):
        screen.print(table)
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= 80 and "…" not in said
    row = next(line for line in said.splitlines() if "sentence" in line)
    assert row.split() == ["sentence-transformers", "<b>", "120", "2.50x", "0.99991", "0.99980"]


def test_limits_are_told_with_units() -> None:
    """Guards against a limit that is not divided by what a row asks."""
    told = "\n".join(limits_lines(BENCH))
    assert "fp32 200, bf16 100, int8 800" in told and "12.0 GB/s" in told and "150 a second" in told
    assert "8.8 x 10^9 operations an image; the products alone allow, a second: fp32 22.7, bf16 11.4, int8 90.9" in told


def test_bars_are_as_long_as_speeds() -> None:
    """Guards against bars that start anywhere but at zero, texts that become tags, and engines that are left out."""
    page = bench_page(BENCH, "runs/<i>", {"cpu": "a & b", "threads": 2, "torch": "2"})
    assert "width:100.0%" in page and "width:39.9%" in page and "120 (2.50x)" in page
    assert "<b>" not in page and "<i>" not in page and "a &amp; b" in page
    assert "pip install open_clip_torch" in page and "cosine 0.99991, least 0.99980" in page
