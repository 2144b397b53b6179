"""The page that a run leaves behind: `report.html`, one file that needs no network and no script.

A `Report` is plain data; `write_report` turns it into the page. Every text is escaped (see
`markup`): a caption may hold anything.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from chiasm.core.files import write_text
from chiasm.evaluate.metric_row import MetricRow
from chiasm.evaluate.verdict import Verdict
from chiasm.metrics.calibration import ReliabilityBin
from chiasm.report.charts import Chart, duration, line_chart, reliability_chart
from chiasm.report.example_cards import (
    BatchImage,
    CaptionCard,
    DrawingCard,
    QuestionCard,
    SearchCard,
    batch_card,
    caption_card,
    drawing_card,
    question_card,
    search_card,
)
from chiasm.report.forgetting import ForgettingFacts, forgetting_section
from chiasm.report.html import Markup, breakable, element, join, said
from chiasm.report.tables import geometry_list, scores_section, section, value_in
from chiasm.report.verdict import verdict_section

REPORT_NAME = "report.html"
LARGEST_BYTES = 2_000_000
"""Photos are stored smaller until the page fits; the last of `_PHOTO_PX` is taken in any case."""
_PHOTO_PX = (360, 280, 200, 140)
_HEADLINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How the model was made."""

    recipe: str
    command: str
    hardware: str
    precision: str
    training_time_s: float
    steps: int
    images_per_s: float
    run: str = ""
    """The run folder as it was typed."""


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
    """The verdict's metric and the first others, four in all, also stand large at the top."""
    kinds: Sequence[MetricRow] = ()
    """Scores of one metric by kind of question."""
    geometry: Mapping[str, float] = field(default_factory=dict)
    """`Outcome.geometry`: how the vectors of a dual encoder lie in their space."""
    reliability: Mapping[str, Sequence[ReliabilityBin]] = field(default_factory=dict)
    """Confidence against accuracy of the answered questions."""
    questions: Sequence[QuestionCard] = ()
    captions: Sequence[CaptionCard] = ()
    searches: Sequence[SearchCard] = ()
    drawings: Sequence[DrawingCard] = ()
    mistakes: Sequence[QuestionCard | CaptionCard] = ()
    """Wrong answers; the page puts the most confident first."""
    charts: Sequence[Chart] = ()
    batch: Sequence[BatchImage] = ()
    ledger: LedgerSummary | None = None
    forgetting: ForgettingFacts | None = None
    """Measures against forgetting, and their results."""
    verdict: Verdict | None = None
    """Whether the run has learned."""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able."""


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.html` into `folder` (atomically) and return its path.

    Raises:
        InputError: an image is not uint8 [h, w, 3].
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
        forgetting_section(report.forgetting) if report.forgetting else None,
        _cards("Confidence", [reliability_chart(bins, name) for name, bins in report.reliability.items()], "charts"),
        _cards("Questions", [question_card(card, photo_px) for card in report.questions]),
        _cards("Captions", [caption_card(card, photo_px) for card in report.captions], "cards wide"),
        _cards("Search", [search_card(card, photo_px) for card in report.searches], "searches"),
        _cards("Drawings", [drawing_card(card, photo_px) for card in report.drawings], "searches"),
        _mistakes(report.mistakes, photo_px),
        _cards("Training curves", [line_chart(chart) for chart in report.charts], "charts"),
        _cards("A training batch after augmentation", [batch_card(card, photo_px) for card in report.batch], "sheet"),
        section("Data", _ledger(report.ledger)) if report.ledger else None,
        section("How to repeat it", _facts(report)),
    ]
    return document(report.title, _header(report), sections)


def document(title: str, header: Markup, sections: Sequence[Markup | None]) -> Markup:
    """A whole page in the report's style: a header, and the sections that there are."""
    head = join(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # Defence in depth beside escaping: the page may load nothing and run nothing.
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", title),
        element("style", Markup((files("chiasm.report") / "page.css").read_text(encoding="utf-8"))),
    )
    body = element("body", header, _contents(sections), element("main", *(part for part in sections if part)))
    return Markup("<!doctype html>\n" + element("html", element("head", head), body, lang="en") + "\n")


def _contents(sections: Sequence[Markup | None]) -> Markup | None:
    """Links to the sections that have a heading of their own; a phone shows one screen of twenty."""
    found = [re.match(r'<section[^>]* id="([^"]+)"[^>]*><h2>(.*?)</h2>', part) for part in sections if part]
    links = [element("a", Markup(match[2]), href=f"#{match[1]}") for match in found if match]
    return element("nav", *links, aria_label="Sections") if len(links) > 2 else None


def _header(report: Report) -> Markup:
    tiles = []
    primary = report.verdict.metric if report.verdict else ""
    scores = sorted((row for row in report.metrics if not row.is_error), key=lambda row: row.name != primary)
    for row in scores[:_HEADLINES]:
        value, ends, n = (value_in(row, heading) for heading in ("score", "95 % interval", "n"))
        lines = [
            element("p", breakable(row.name), class_="tile-name"),
            element("p", value, class_="tile-value"),
            element("p", f"{ends} · n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}", class_="muted"),
        ]
        tiles.append(element("li", *lines, class_="tile"))
    facts = report.facts
    made = (
        f"{duration(facts.training_time_s)} of training · {facts.steps:,} steps · "
        f"{facts.images_per_s:,.0f} images/s · {facts.precision} · {facts.hardware}"
    )
    return element(
        "header",
        element("p", "chiasm report · recipe ", element("code", facts.recipe), class_="brand"),
        said(report.title, "h1"),
        said(report.summary, "p", "lead"),
        element("p", made, class_="muted"),
        verdict_section(report.verdict, report.metrics, facts.run) if report.verdict else None,
        element("ul", *tiles, class_="tiles") if tiles else None,
    )


def _cards(heading: str, cards: Sequence[Markup], class_: str = "cards") -> Markup | None:
    return section(heading, element("div", *cards, class_=class_)) if cards else None


def _results(report: Report) -> Markup | None:
    if not report.metrics:
        return None
    return scores_section("Results", report.metrics, geometry_list(report.geometry))


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
    rows |= {"learning rate": report.forgetting.why} if report.forgetting else {}
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
