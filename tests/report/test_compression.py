"""The table and the page of variants show what was measured, and the frontier leaves out what another one beats."""

import pytest
from rich.console import Console

from chiasm.core.types import Score
from chiasm.metrics.paired import PairedResult
from chiasm.report.compression import Variant, cells, compression_page, compression_table, frontier


def variant(name: str, score: float, size: int, time_s: float, refusal: str = "") -> Variant:
    difference = None if name == "as it was" else PairedResult(score - 0.8, -0.02, 0.01, 0.5, 500)
    return Variant(
        name=name,
        score=Score(score, score - 0.03, score + 0.03, 500),
        difference=difference,
        cosine=(0.9998, 0.9971),
        folder_bytes=size,
        whole_bytes=size + 4_000_000,
        latency_s={1: (time_s, 2 * time_s), 16: (10 * time_s, 12 * time_s)},
        memory_bytes=700_000_000,
        refusal=refusal,
    )


FIRST = variant("as it was", 0.80, 8_000_000, 0.020)
SMALL = variant("int8", 0.797, 2_000_000, 0.012)
BAD = variant("<b>worse", 0.70, 4_000_000, 0.030, "worse loses 10.00 points")


def test_a_row_has_every_number() -> None:
    """Guards against a ratio of the wrong two sizes, and a difference whose sign is that of the loss."""
    row = cells(SMALL, FIRST)
    assert row["weights in folder"] == "2.00 MB, 4.00x less"
    assert row["and packaged ones"] == "6.00 MB, 2.00x less"
    assert row["points more"] == "-0.30 (-2.00 to +1.00)"
    assert row["batch 1: p50 / p95"] == "12.0 / 24.0 ms" and row["batch 16: p50 / p95"] == "120.0 / 144.0 ms"
    assert row["gate"] == "passed" and cells(BAD, FIRST)["gate"] == "refused" and cells(FIRST, FIRST)["gate"] == ""


def test_the_frontier_is_what_no_other_beats() -> None:
    """Guards against a line through a variant that costs more and scores less than another."""
    variants = [FIRST, SMALL, BAD]
    chart = frontier(variants, "acc1", "MB", [12.0, 6.0, 8.0])
    assert [curve.name for curve in chart.curves] == ["as it was", "int8", "<b>worse", "not beaten"]
    assert chart.curves[-1].points == [(6.0, 0.797), (12.0, 0.80)]


def test_a_lone_variant_has_a_chart(recwarn: pytest.WarningsRecorder) -> None:
    """Guards against an axis without extent where all variants are equal."""
    page = compression_page([FIRST, FIRST], "acc1", "runs/a", "int8")
    assert page.count("<svg") >= 2 and not recwarn.list


def test_the_page_says_everything_and_escapes_names() -> None:
    """Guards against a number that stands in the record alone, and against tags out of a name."""
    page = compression_page([FIRST, SMALL, BAD], "acc1", "runs/<i>", "int8")
    for text in cells(BAD, FIRST).values():
        assert text.replace("<b>", "&lt;b&gt;") in page
    assert "worse loses 10.00 points" in page and "<b>worse" not in page and "<i>" not in page
    assert "Written: int8" in page


def test_the_terminal_shows_the_variants_side_by_side() -> None:
    """Guards against columns that do not fit a terminal of a hundred characters."""
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(compression_table([FIRST, SMALL, BAD], "acc1"))
    text = captured.get()
    assert "acc1, n 500" in text and "2.00 MB, 4.00x less" in text and "refused" in text
    assert max(map(len, text.splitlines())) <= 100
