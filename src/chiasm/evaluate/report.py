"""The page that a run leaves behind: `report.html`, one file that needs no network and no script.

A `Report` is plain data; `write_report` turns it into the page and `metric_table` prints its numbers in a
terminal. Every text is escaped (see `markup`): a caption may hold anything.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.core.files import write_text
from chiasm.core.types import Score
from chiasm.evaluate.charts import Chart, duration, line_chart, reliability_chart, score_bar
from chiasm.evaluate.markup import Child, Markup, breakable, element, join, said
from chiasm.evaluate.page_cards import (
    BatchPicture,
    CaptionCard,
    QuestionCard,
    SearchCard,
    batch_card,
    caption_card,
    question_card,
    search_card,
)
from chiasm.evaluate.page_guard import GuardFacts, guard_section
from chiasm.evaluate.scores.calibration import ReliabilityBin

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table

REPORT_NAME = "report.html"
LARGEST_BYTES = 2_000_000
"""Photos are stored smaller until the page fits; the last of `_PHOTO_PX` is taken in any case."""
_PHOTO_PX = (360, 280, 200, 140)
_HEADLINES = 4
_NONE = "–"
_EMPTY = {_NONE: "empty"}
"""Cell text -> class; a cell with nothing in it is not shown where the table is narrow."""
_MEANING = {
    "alignment": "mean squared distance of a picture and its text: 0 the same, 2 unrelated",
    "image_uniformity": "spread of the pictures: 0 all in one place, lower is more even",
    "text_uniformity": "spread of the texts: 0 all in one place, lower is more even",
    "modality_gap": "distance of the centre of the pictures from that of the texts, 0 to 2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How the model was made."""

    recipe: str
    command: str
    hardware: str
    precision: str
    training_time_s: float
    steps: int
    pictures_per_s: float


REMARKS = {
    "matching_hard_accuracy": "wrong pairs are each sentence with the most similar picture that it does not fit",
    "pick_1_of_10": "each picture's own sentence among ten; labels get their calibration from it",
    "caption_near": "captions as near to what people wrote (ROUGE_L) as half of validation's were",
}
"""What a reader of a metric must know that its name does not say."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One measured number and what it must beat."""

    name: str
    score: Score
    blind: Score | None = None
    """The same metric with every picture replaced by another one."""
    chance: float | None = None
    """Score of guessing, or of always giving the most common answer."""
    note: str = ""
    is_share: bool = True
    """True prints percent; False prints the plain number (CIDEr, a loss)."""
    largest: float = 1.0
    """Value at which the bar is full."""
    no_picture: Score | None = None
    """The same metric with uniform grey pictures."""
    no_text: Score | None = None
    """The same metric with empty questions or sentences."""

    @property
    def is_error(self) -> bool:
        """True where lower is better: an expected calibration error."""
        return self.name.endswith("_ECE")

    @property
    def remark(self) -> str:
        """The note, or what a reader of this metric must know."""
        if self.name.endswith("_uncalibrated_ECE"):
            return "calibration error of the model's own numbers, before their calibration; lower is better"
        return self.note or (
            "expected calibration error; lower is better" if self.is_error else REMARKS.get(self.name, "")
        )


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """What became of the examples: `offered` = `used` + the sum of `rejected`."""

    offered: int
    used: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page, in the order of the page; empty parts are left out."""

    title: str
    summary: str
    """One sentence: what was trained on what."""
    facts: RunFacts
    metrics: Sequence[MetricRow]
    """The first four also stand large at the top."""
    kinds: Sequence[MetricRow] = ()
    """Scores of one metric by kind of question."""
    geometry: Mapping[str, float] = field(default_factory=dict)
    """`Outcome.geometry`: how the vectors of a dual encoder lie in their space."""
    reliability: Mapping[str, Sequence[ReliabilityBin]] = field(default_factory=dict)
    """Confidence against accuracy of the answered questions."""
    questions: Sequence[QuestionCard] = ()
    captions: Sequence[CaptionCard] = ()
    searches: Sequence[SearchCard] = ()
    mistakes: Sequence[QuestionCard | CaptionCard] = ()
    """Wrong answers; the page puts the most confident first."""
    charts: Sequence[Chart] = ()
    batch: Sequence[BatchPicture] = ()
    ledger: LedgerSummary | None = None
    guard: GuardFacts | None = None
    """What was done to keep what the model knew before."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able."""


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.html` into `folder` (atomically) and return its path.

    Raises:
        InputError: a picture is not uint8 [h, w, 3].
    """
    page = Markup()
    for photo_px in _PHOTO_PX:
        page = render(report, photo_px)
        if len(page.encode()) <= LARGEST_BYTES:
            break
    path = folder / REPORT_NAME
    write_text(path, page)
    return path


def render(report: Report, photo_px: int = _PHOTO_PX[0]) -> Markup:
    """Return the whole page; photos are stored with their longer side at most `photo_px`."""
    sections = [
        _results(report),
        scores_section("By kind of question", report.kinds) if report.kinds else None,
        guard_section(report.guard) if report.guard else None,
        _cards("Confidence", [reliability_chart(bins, name) for name, bins in report.reliability.items()], "charts"),
        _cards("Questions", [question_card(card, photo_px) for card in report.questions]),
        _cards("Captions", [caption_card(card, photo_px) for card in report.captions], "cards wide"),
        _cards("Search", [search_card(card, photo_px) for card in report.searches], "searches"),
        _mistakes(report.mistakes, photo_px),
        _cards("Training curves", [line_chart(chart) for chart in report.charts], "charts"),
        _cards("A training batch, as the model sees it", [batch_card(one, photo_px) for one in report.batch], "sheet"),
        _section("Data", _ledger(report.ledger)) if report.ledger else None,
        _section("How to repeat it", _facts(report)),
    ]
    return document(report.title, _header(report), sections)


def document(title: str, header: Markup, sections: Sequence[Markup | None]) -> Markup:
    """A whole page in the report's style: a header, and the sections that there are."""
    head = join(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # A second wall behind the escaping: the page may load nothing and run nothing.
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", title),
        element("style", Markup((files("chiasm.evaluate") / "page.css").read_text(encoding="utf-8"))),
    )
    body = element("body", header, element("main", *(part for part in sections if part)))
    return Markup("<!doctype html>\n" + element("html", element("head", head), body, lang="en") + "\n")


def scores_section(heading: str, rows: Sequence[MetricRow]) -> Markup:
    """A section with the table of rows and the key to its bars."""
    return _section(heading, _metric_table(rows), _bar_key(rows))


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
        # "no picture" stands on two lines: eight columns must fit 80 characters.
        table.add_column(heading.replace("no ", "no\n"), justify="right", no_wrap=True)
    for row in rows:
        cells = (_value(row, heading).replace(" – ", "–") for heading in columns)
        table.add_row(_Name(row.name), *(Text(cell) for cell in cells))
    return table


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
    optional = ("shuffled", "no picture", "no text", "chance")
    return ["score", "95 % interval", "n", *(one for one in optional if any(_value(row, one) != _NONE for row in rows))]


def _value(row: MetricRow, heading: str) -> str:
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
    seen = {"shuffled": row.blind, "no picture": row.no_picture, "no text": row.no_text}[heading]
    return _NONE if seen is None else number(seen.value)


def _header(report: Report) -> Markup:
    tiles = []
    for row in [row for row in report.metrics if not row.is_error][:_HEADLINES]:
        value, ends, n = (_value(row, heading) for heading in ("score", "95 % interval", "n"))
        lines = [
            element("p", breakable(row.name), class_="tile-name"),
            element("p", value, class_="tile-value"),
            element("p", f"{ends} · n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}", class_="muted"),
            element("p", f"pictures shuffled: {_value(row, 'shuffled')}", class_="muted") if row.blind else None,
        ]
        tiles.append(element("li", *lines, class_="tile"))
    facts = report.facts
    made = (
        f"{duration(facts.training_time_s)} of training · {facts.steps:,} steps · "
        f"{facts.pictures_per_s:,.0f} pictures/s · {facts.precision} · {facts.hardware}"
    )
    return element(
        "header",
        element("p", "chiasm · ", element("code", facts.recipe), class_="brand"),
        said(report.title, "h1"),
        said(report.summary, "p", "lead"),
        element("p", made, class_="muted"),
        element("ul", *tiles, class_="tiles") if tiles else None,
    )


def _section(heading: str, *children: Child) -> Markup:
    return element("section", element("h2", heading), *children)


def _cards(heading: str, cards: Sequence[Markup], class_: str = "cards") -> Markup | None:
    return _section(heading, element("div", *cards, class_=class_)) if cards else None


def _results(report: Report) -> Markup | None:
    if not report.metrics:
        return None
    return _section("Results", _metric_table(report.metrics), _bar_key(report.metrics), _geometry(report.geometry))


def _metric_table(rows: Sequence[MetricRow]) -> Markup:
    """A table that becomes one block a row on a narrow screen; the roles keep it a table for screen readers."""
    labels = _columns(rows)
    bar_heading = element(
        "th", element("span", "bar", class_="hidden"), scope="col", role="columnheader", class_="bar-cell"
    )
    headings = [element("th", label, scope="col", role="columnheader") for label in ("metric", *labels)]
    body = []
    for row in rows:
        note = said(row.remark, "small", "muted") if row.remark else None
        cells = [element("td", _bar(row), role="cell", class_="bar-cell" if _bar(row) else "bar-cell empty")]
        for label in labels:
            text = _value(row, label)
            class_ = "value" if label == "score" else _EMPTY.get(text)
            cells.append(element("td", text, role="cell", data_label=label, class_=class_))
        name = element("th", said(row.name), note, scope="row", role="rowheader")
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
        parts.append("solid tick, shuffled: the same model, each question put to another picture")
    if any(row.chance is not None for row in rows):
        parts.append("dotted tick, chance: guessing, or the most common answer")
    if any(row.no_picture for row in rows):
        parts.append("no picture: a uniform grey one")
    if any(row.no_text for row in rows):
        parts.append("no text: empty questions and sentences")
    return element("p", "; ".join(parts) + ".", class_="muted key")


def _geometry(geometry: Mapping[str, float]) -> Markup | None:
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


def _mistakes(cards: Sequence[QuestionCard | CaptionCard], photo_px: int) -> Markup | None:
    ordered = sorted(cards, key=lambda card: -(card.confidence or 0.0))
    drawn = [
        question_card(card, photo_px) if isinstance(card, QuestionCard) else caption_card(card, photo_px)
        for card in ordered
    ]
    return _cards("Worst mistakes, most confident first", drawn)


def _ledger(ledger: LedgerSummary) -> Markup:
    rejected = sum(ledger.rejected.values())
    total = f"{ledger.offered:,} examples offered = {ledger.used:,} used + {rejected:,} rejected."
    reasons = [element("li", said(reason), f": {count:,}") for reason, count in ledger.rejected.items()]
    return join(element("p", total), element("ul", *reasons) if reasons else None)


def _facts(report: Report) -> Markup:
    rows = {"recipe": report.facts.recipe, "hardware": report.facts.hardware, "precision": report.facts.precision}
    rows |= {"learning rate": report.guard.why} if report.guard else {}
    rows |= report.environment
    entries = [part for name, value in rows.items() for part in (element("dt", name), element("dd", value))]
    config = json.dumps(report.config, indent=2, ensure_ascii=False)
    return join(
        element("pre", element("code", report.facts.command), class_="command", tabindex="0"),
        element("dl", *entries),
        element("details", element("summary", "Complete configuration"), element("pre", config, tabindex="0"))
        if report.config
        else None,
    )
