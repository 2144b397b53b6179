"""Scores as a table: on the page with bars, and in a terminal."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chiasm.evaluate.metric_row import MetricRow
from chiasm.metrics.meanings import guessing, meaning
from chiasm.metrics.paired import PairedResult
from chiasm.report.charts import score_bar
from chiasm.report.html import Child, Markup, breakable, element, join, said

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table

_NONE = "–"
_EMPTY = {_NONE: "empty"}
"""Cell text -> class; a cell with nothing in it is not shown where the table is narrow."""
_MEANING = {
    "alignment": "mean squared distance of an image and its text: 0 the same, 2 unrelated",
    "image_uniformity": "spread of the images: 0 all in one place, lower is more even",
    "text_uniformity": "spread of the texts: 0 all in one place, lower is more even",
    "modality_gap": "distance of the centre of the images from that of the texts, 0 to 2",
}


def scores_section(heading: str, rows: Sequence[MetricRow], *more: Child) -> Markup:
    """A section with the table of rows, the key to its bars, and what else belongs there."""
    return section(heading, _metric_table(rows), _bar_key(rows), *more)


def metric_table(rows: Sequence[MetricRow], title: str = "") -> "Table":
    """The table of results for a terminal, 80 columns and wider: the page's columns, notes below it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    notes = [f"{row.name}: {row.remark}" for row in rows if row.remark]
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    columns = _columns(rows)
    table.add_column("metric")
    for heading in columns:
        # "no image" stands on two lines: eight columns must fit 80 characters.
        table.add_column(heading.replace("no ", "no\n"), justify="right", no_wrap=True)
    for row in rows:
        cells = (value_in(row, heading).replace(" – ", "–") for heading in columns)
        table.add_row(_Name(row.name), *(Text(cell) for cell in cells))
    return table


def difference_table(rows: Sequence[MetricRow], differences: Mapping[str, PairedResult]) -> "Table":
    """The differences for a terminal, in the order of `rows`; shares in percentage points."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=Text("shares in percentage points; p: of no difference, by swapping the runs image by image"),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("metric", overflow="fold")
    for heading in ("difference", "95 % interval", "p", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.name in differences:
            difference = differences[row.name]
            value, low, high = (
                _signed(number, row.is_share) for number in (difference.difference, difference.low, difference.high)
            )
            table.add_row(Text(row.name), value, f"{low} to {high}", f"{difference.p_value:.4f}", f"{difference.n:,}")
    return table


def _signed(value: float, is_share: bool) -> str:
    return f"{100 * value:+.1f}" if is_share else f"{value:+.3f}"


def geometry_line(geometry: Mapping[str, float]) -> str:
    """The geometry of the shared space on one line, which may be folded."""
    return "geometry: " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in geometry.items())


class _Name:
    """A metric's name in a terminal's table; where it does not fit, it is folded after its underscores or spaces."""

    def __init__(self, name: str) -> None:
        self.parts = re.findall(r"[^_ ]*[_ ]?", name)

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.cells import cell_len
        from rich.measure import Measurement

        widths = [cell_len(part) for part in self.parts]
        return Measurement(max(widths), sum(widths)).with_maximum(options.max_width)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.cells import cell_len
        from rich.text import Text

        lines = [""]
        for part in self.parts:
            if cell_len(lines[-1] + part) > options.max_width and lines[-1]:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")


def _columns(rows: Sequence[MetricRow]) -> list[str]:
    """Headings of the columns in which anything stands."""
    optional = ("shuffled", "no image", "no text", "chance")
    return [
        "score",
        "95 % interval",
        "n",
        *(heading for heading in optional if any(value_in(row, heading) != _NONE for row in rows)),
    ]


def in_words(row: MetricRow) -> str:
    """Meaning and chance level of a row's metric as sentences for the page; "" if there is none.

    The row's own note replaces the meaning. A row of one kind of question has only its chance level.
    """
    sentences = [row.note or ("" if ":" in row.name else meaning(row.name))]
    if row.chance is not None:
        unit = "\N{NO-BREAK SPACE}%" if row.is_share else ""
        sentences.append(f"{guessing(row.name)} reaches {value_in(row, 'chance')}{unit}.")
    return " ".join(filter(None, sentences))


def value_in(row: MetricRow, heading: str) -> str:
    """What stands in a column; a percent sign only at the score, since all of a row is in one unit."""
    score, factor, digits = row.score, (100 if row.is_share else 1), (1 if row.is_share else 3)

    def number(value: float) -> str:
        return f"{factor * value:.{digits}f}"

    if heading == "score":
        return number(score.value) + (" %" if row.is_share else "")
    if heading == "95 % interval":
        return f"{number(score.low)} – {number(score.high)}"
    if heading == "n":
        return f"{score.n:,}"
    if heading == "chance":
        return _NONE if row.chance is None else number(row.chance)
    score_in_view = {"shuffled": row.blind, "no image": row.no_picture, "no text": row.no_text}[heading]
    return _NONE if score_in_view is None else number(score_in_view.value)


def section(heading: str, *children: Child) -> Markup:
    """A section of the page under its heading, with an address of its own within the page."""
    name = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return element("section", element("h2", heading), *children, id=name)


def _metric_table(rows: Sequence[MetricRow]) -> Markup:
    """A table that becomes one block a row on a narrow screen; the roles keep it a table for screen readers."""
    labels = _columns(rows)
    bar_heading = element(
        "th", element("span", "bar", class_="hidden"), scope="col", role="columnheader", class_="bar-cell"
    )
    headings = [element("th", label, scope="col", role="columnheader") for label in ("metric", *labels)]
    body = []
    for row in rows:
        sentences = in_words(row)
        note = said(sentences, "small", "muted") if sentences else None
        cells = [element("td", _bar(row), role="cell", class_="bar-cell" if _bar(row) else "bar-cell empty")]
        for label in labels:
            text = value_in(row, label)
            class_ = "value" if label == "score" else _EMPTY.get(text)
            cells.append(element("td", text, role="cell", data_label=label, class_=class_))
        name = element("th", element("span", breakable(row.name), dir="auto"), note, scope="row", role="rowheader")
        body.append(element("tr", name, *cells, role="row"))
    head = element("thead", element("tr", headings[0], bar_heading, *headings[1:], role="row"), role="rowgroup")
    return element("table", head, element("tbody", *body, role="rowgroup"), class_="metrics", role="table")


def _bar(row: MetricRow) -> Markup | None:
    """None for an error, where a long bar would look like success, and for a score that no bar can hold."""
    if row.is_error or row.score.high > row.largest:
        return None
    return score_bar(row.score, row.blind.value if row.blind else None, row.chance, row.largest)


def _bar_key(rows: Sequence[MetricRow]) -> Markup:
    parts = ["Bar: score, with its 95 % interval as a whisker"]
    if any(row.blind for row in rows):
        parts.append("solid tick, shuffled: the same model, each question put to another image")
    if any(row.chance is not None for row in rows):
        parts.append("dotted tick, chance: guessing, or the most common answer")
    if any(row.no_picture for row in rows):
        parts.append("no image: a uniform grey one")
    if any(row.no_text for row in rows):
        parts.append("no text: empty questions and sentences")
    return element("p", "; ".join(parts) + ".", class_="muted key")


def geometry_list(geometry: Mapping[str, float]) -> Markup | None:
    """The geometry of the shared space with what each number means."""
    if not geometry:
        return None
    rows = [
        element(
            "div",
            element("dt", name.replace("_", " ")),
            element("dd", element("strong", f"{value:.3f}"), " ", element("small", _MEANING.get(name, ""))),
        )
        for name, value in geometry.items()
    ]
    return join(element("h3", "Geometry of the shared space"), element("dl", *rows, class_="geometry"))
