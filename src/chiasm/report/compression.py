"""What compression costs and saves, as a table for a terminal and as a page with the frontier of all variants."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from chiasm.core.types import Score
from chiasm.metrics.paired import PairedResult
from chiasm.report.charts import Chart, Curve, line_chart
from chiasm.report.html import Markup, element, said
from chiasm.report.page import document
from chiasm.report.tables import section

if TYPE_CHECKING:
    from rich.table import Table

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One measured model: the run as it was, or a compressed one.

    Attributes:
        name: as `--to` has it; "as it was" for the run itself.
        score: primary metric on the split.
        difference: of the primary metric from the run as it was, on the same items; None for that run itself.
        cosine: mean and least cosine of its vectors to those of the run as it was, over images and texts.
        folder_bytes: weights in the run folder.
        whole_bytes: these, and the weights that an installed package brings.
        latency_s: requests answered together -> median and 95th percentile of the time until they are answered.
        memory_bytes: largest resident set of a process that opens it and encodes 16 images and texts.
        refusal: why the gate refused it; "" where it passed.
    """

    name: str
    score: Score
    difference: PairedResult | None = None
    cosine: tuple[float, float] = (1.0, 1.0)
    folder_bytes: int
    whole_bytes: int
    latency_s: Mapping[int, tuple[float, float]]
    memory_bytes: int
    refusal: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def cells(variant: Variant, first: Variant) -> dict[str, str]:
    """Heading -> text of a variant's row; `first` is the run as it was."""
    times = {
        f"batch {count}: p50 / p95": f"{1000 * middle:.1f} / {1000 * late:.1f} ms"
        for count, (middle, late) in variant.latency_s.items()
    }
    return {
        "variant": variant.name,
        "score": f"{variant.score.value:.4f}",
        "95 % interval": f"{variant.score.low:.4f} – {variant.score.high:.4f}",
        "points more": _difference(variant.difference),
        "cosine: mean / least": f"{variant.cosine[0]:.5f} / {variant.cosine[1]:.5f}",
        "weights in folder": _size(variant.folder_bytes, first.folder_bytes),
        "and packaged ones": _size(variant.whole_bytes, first.whole_bytes),
        **times,
        "peak memory": f"{variant.memory_bytes / MEGABYTE:,.0f} MB",
        "gate": "" if variant is first else "refused" if variant.refusal else "passed",
    }


def compression_table(variants: Sequence[Variant], metric: str) -> "Table":
    """The variants side by side, one column each, for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"{metric}, n {variants[0].score.n:,}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    shown = [cells(one, variants[0]) for one in variants]
    table.add_column("", no_wrap=True)
    for column in shown:
        table.add_column(column["variant"], justify="right", overflow="fold")
    for heading in list(shown[0])[1:]:
        table.add_row(heading, *(column[heading] for column in shown))
    return table


def compression_page(variants: Sequence[Variant], metric: str, run: str, chosen: str) -> Markup:
    """The table and two charts, score over size and score over time, as a page that needs no network.

    Args:
        variants: the run as it was, then the others.
        metric: the primary metric.
        run: what was compressed.
        chosen: the variant that was written.
    """
    made = f"{metric} on {variants[0].score.n:,} items, each variant beside the run as it was. Written: {chosen}."
    words = [element("p", "chiasm · ", element("code", "compress"), class_="brand"), said(f"{run}, compressed", "h1")]
    header = element("header", *words, said(made, "p", "lead"))
    sizes = frontier(variants, metric, "MB", [one.whole_bytes / MEGABYTE for one in variants])
    times = frontier(variants, metric, "ms", [1000 * _median_s(one) for one in variants])
    charts = element("div", line_chart(sizes), line_chart(times), class_="charts")
    return document(f"{run}, compressed", header, [section("Variants", _table(variants)), section("Frontier", charts)])


def frontier(variants: Sequence[Variant], metric: str, unit: str, costs: Sequence[float]) -> Chart:
    """A point for each variant, and a line through those that no other one beats in both cost and score.

    Args:
        variants: the points.
        metric: their score.
        unit: of the costs.
        costs: one a variant; less is better.
    """
    points = [(cost, one.score.value) for cost, one in zip(costs, variants, strict=True)]
    best = sorted({own for own in points if not any(_beats(other, own) for other in points)})
    curves = [Curve(one.name, [point]) for one, point in zip(variants, points, strict=True)]
    is_share = all(one.score.high <= 1 for one in variants)
    return Chart(f"{metric} over {unit}", [*curves, Curve("not beaten", best)], is_share=is_share, x_label=unit)


def _beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    return other != own and other[0] <= own[0] and other[1] >= own[1]


def _table(variants: Sequence[Variant]) -> Markup:
    """A column for each variant; on a narrow screen a block a row. The roles keep it a table for screen readers."""
    shown = [cells(one, variants[0]) for one in variants]
    names = [row["variant"] for row in shown]
    headings = [element("th", label, scope="col", role="columnheader") for label in ("", *names)]
    body = []
    for quantity in list(shown[0])[1:]:
        values = [
            element("td", row[quantity], role="cell", data_label=name, class_="value" if row[quantity] else "empty")
            for name, row in zip(names, shown, strict=True)
        ]
        body.append(element("tr", element("th", quantity, scope="row", role="rowheader"), *values, role="row"))
    head = element("thead", element("tr", *headings, role="row"), role="rowgroup")
    table = element("table", head, element("tbody", *body, role="rowgroup"), class_="metrics", role="table")
    refusals = [element("li", said(one.refusal)) for one in variants if one.refusal]
    return element("div", table, element("ul", *refusals, class_="points") if refusals else None)


def _median_s(variant: Variant) -> float:
    return variant.latency_s[min(variant.latency_s)][0]


def _difference(one: PairedResult | None) -> str:
    if one is None:
        return ""
    return f"{100 * one.difference:+.2f} ({100 * one.low:+.2f} to {100 * one.high:+.2f})"


def _size(size: int, first: int) -> str:
    times = f", {first / size:.2f}x less" if 0 < size < first else ""
    return f"{size / MEGABYTE:,.2f} MB{times}"
