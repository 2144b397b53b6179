"""Engines side by side: tables for a terminal of 80 columns, and a page with bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chiasm.evaluate.speed.compare import WORKS, Bench, Line
from chiasm.report.html import Markup, element, said
from chiasm.report.page import document
from chiasm.report.tables import section

if TYPE_CHECKING:
    from rich.table import Table

GIGA = 1e9
HEADINGS = {"images": "Images", "files": "Image files", "texts": "Texts"}


def limits_lines(bench: Bench) -> list[str]:
    """What the machine can do, and what that allows for this model, in sentences."""
    limits = bench.limits
    products = ", ".join(
        f"{name} {limits[f'{name}_operations_per_s'] / GIGA:,.0f}" for name in ("fp32", "bf16", "int8")
    )
    lines = [f"matrix products, in 10^9 operations a second: {products}"]
    lines.append(f"memory, read and written: {limits['memory_bytes_per_s'] / GIGA:,.1f} GB/s")
    if "jpeg_files_per_s" in limits:
        lines.append(f"these JPEG files, decoded by one thread: {limits['jpeg_files_per_s']:,.0f} a second")
    for work, row in (("images", "an image"), ("texts", "a text")):
        most = ", ".join(f"{name} {speed(bench.most_per_s(work, name))}" for name in ("fp32", "bf16", "int8"))
        asked = scaled(bench.operations[work])
        lines.append(f"{asked} operations {row}; the products alone allow, a second: {most}")
    return lines


def bench_tables(bench: Bench) -> "list[Table]":
    """One table a work."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tables = []
    for work, lines in bench.works.items():
        table = Table(title=WORKS[work], title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("engine", min_width=24)
        for heading in ("a second", f"to {bench.baseline}", "cosine", "least"):
            table.add_column(heading, justify="right")
        for line in lines:
            mean, least = (f"{one:.5f}" for one in line.cosine)
            table.add_row(line.engine, speed(line.per_s), f"{line.ratio:.2f}x", mean, least)
        tables.append(table)
    return tables


def bench_page(bench: Bench, run: str, environment: dict[str, str | int]) -> Markup:
    """Bars of every work, the limits, and what is absent, as a page that needs no network."""
    where = f"{environment['cpu']}, {environment['threads']} threads, torch {environment['torch']}"
    made = f"{bench.rows} rows at once, medians of {bench.rounds} interleaved rounds. {where}."
    words = [element("p", "chiasm · ", element("code", "bench"), class_="brand"), said(f"Speed of {run}", "h1")]
    header = element("header", *words, said(made, "p", "lead"))
    sections = [
        section(HEADINGS[work], _bars(lines, f"{WORKS[work].capitalize()}; in brackets to {bench.baseline}."))
        for work, lines in bench.works.items()
    ]
    limits = element("ul", *(element("li", line) for line in limits_lines(bench)), class_="points")
    sections.append(section("The machine", limits))
    if bench.absent:
        named = [element("li", element("strong", name), ": ", reason) for name, reason in bench.absent.items()]
        sections.append(section("Not measured", element("ul", *named, class_="points")))
    return document(f"Speed of {run}", header, sections)


def _bars(lines: Sequence[Line], what: str) -> Markup:
    """A bar an engine, as long as its speed; `what` says what is counted."""
    most = max(line.per_s for line in lines)
    rows = []
    for line in lines:
        fill = element("span", "", class_="meter-fill", style=f"width:{100 * line.per_s / most:.1f}%")
        bar = element("span", fill, class_="meter", aria_hidden="true")
        exact = element("small", f"cosine {line.cosine[0]:.5f}, least {line.cosine[1]:.5f}", class_="muted")
        told = element("strong", f"{speed(line.per_s)} ({line.ratio:.2f}x)")
        own = "own" if line.engine.startswith("chiasm") else None
        rows.append(element("div", element("dt", line.engine, " ", exact), element("dd", bar, told), class_=own))
    note = f"{what} Cosine: of the vectors to those of chiasm in fp32."
    return element("div", element("p", note, class_="muted"), element("dl", *rows, class_="versus speeds"))


def scaled(count: float) -> str:
    """A number of operations with three digits: "8.82 x 10^9"."""
    power = 9 if count >= 1e8 else 6 if count >= 1e5 else 3
    return f"{count / 10**power:.3g} x 10^{power}"


def speed(per_s: float) -> str:
    """Rows a second with three digits."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:#.3g}"
