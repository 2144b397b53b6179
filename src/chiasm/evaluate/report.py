"""The page that a run leaves behind: `report.html`, one file that needs no network and no script.

A `Report` is plain data; `write_report` turns it into the page and `metric_table` prints its numbers in a
terminal. Every text is escaped (see `markup`): a caption may hold anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chiasm.core.files import write_text
from chiasm.core.types import Score
from chiasm.evaluate.charts import Chart, duration, line_chart, score_bar
from chiasm.evaluate.markup import Child, Markup, breakable, element, join, picture, said

if TYPE_CHECKING:
    from rich.table import Table

REPORT_NAME = "report.html"
LARGEST_BYTES = 2_000_000
"""Photos are stored smaller until the page fits; the last of `_PHOTO_PX` is taken in any case."""
_PHOTO_PX = (360, 280, 200, 140)
_HEADLINES = 4
_NONE = "–"
_EMPTY = {_NONE: "empty"}
"""Cell text -> class; a cell with nothing in it is not shown where the table is narrow."""

Picture = npt.NDArray[np.uint8]
"""uint8 [h, w, 3] RGB."""


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


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One measured number and what it must beat."""

    name: str
    score: Score
    blind: Score | None = None
    """The same metric of a model that cannot see the picture."""
    chance: float | None = None
    """Score of guessing, or of always giving the most common answer."""
    note: str = ""
    is_share: bool = True
    """True prints percent; False prints the plain number (CIDEr, a loss)."""
    largest: float = 1.0
    """Value at which the bar is full."""


@dataclass(frozen=True, slots=True)
class QuestionCard:
    """One answered question."""

    image: Picture
    question: str
    kind: str
    answer: str
    confidence: float
    """In [0, 1]."""
    truth: str
    right: bool


@dataclass(frozen=True, slots=True)
class CaptionCard:
    """One described picture."""

    image: Picture
    captions: Mapping[str, str]
    """ISO 639-1 code (or "") -> the model's sentence."""
    truth: str
    right: bool | None = None
    """None where no machine can tell."""
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One picture that a search returned."""

    image: Picture
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class SearchCard:
    """A sentence and the nearest pictures, best first."""

    sentence: str
    hits: Sequence[SearchHit]
    rank: int | None = None
    """1-based place of the right picture among all that were searched."""
    searched: int | None = None
    """Number of pictures that were searched."""


@dataclass(frozen=True, slots=True)
class BatchPicture:
    """A picture as the model sees it in training, with its texts."""

    image: Picture
    texts: Sequence[str]


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
    questions: Sequence[QuestionCard] = ()
    captions: Sequence[CaptionCard] = ()
    searches: Sequence[SearchCard] = ()
    mistakes: Sequence[QuestionCard | CaptionCard] = ()
    """Wrong answers; the page puts the most confident first."""
    charts: Sequence[Chart] = ()
    batch: Sequence[BatchPicture] = ()
    ledger: LedgerSummary | None = None
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
        _section("Results", _metric_table(report.metrics), _bar_key(report.metrics)) if report.metrics else None,
        _section("By kind of question", _metric_table(report.kinds), _bar_key(report.kinds)) if report.kinds else None,
        _cards("Questions", [_question(card, photo_px) for card in report.questions]),
        _cards("Captions", [_caption(card, photo_px) for card in report.captions], "cards wide"),
        _cards("Search", [_search(card, photo_px) for card in report.searches], "searches"),
        _mistakes(report.mistakes, photo_px),
        _cards("Training curves", [line_chart(chart) for chart in report.charts], "charts"),
        _batch(report.batch, photo_px),
        _section("Data", _ledger(report.ledger)) if report.ledger else None,
        _section("How to repeat it", _facts(report)),
    ]
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
        element("title", report.title),
        element("style", Markup((files("chiasm.evaluate") / "page.css").read_text(encoding="utf-8"))),
    )
    body = element("body", _header(report), element("main", *(part for part in sections if part)))
    return Markup("<!doctype html>\n" + element("html", element("head", head), body, lang="en") + "\n")


def metric_table(rows: Sequence[MetricRow], title: str = "") -> "Table":
    """The table of results for a terminal: a `rich.table.Table` with the page's columns, notes below it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("metric", overflow="fold")
    for heading in ("score", "95 % interval", "n", "blind", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in (row.name, *_numbers(row))))
    return table


def _number(value: float, row: MetricRow) -> str:
    return f"{100 * value:.1f} %" if row.is_share else f"{value:.3f}"


def _numbers(row: MetricRow) -> tuple[str, str, str, str, str]:
    score = row.score
    ends = f"{100 * score.low:.1f} – {100 * score.high:.1f}" if row.is_share else f"{score.low:.3f} – {score.high:.3f}"
    return (
        _number(score.value, row),
        ends,
        f"{score.n:,}",
        _NONE if row.blind is None else _number(row.blind.value, row),
        _NONE if row.chance is None else _number(row.chance, row),
    )


def _header(report: Report) -> Markup:
    tiles = []
    for row in report.metrics[:_HEADLINES]:
        value, ends, n, blind, _ = _numbers(row)
        lines = [
            element("p", breakable(row.name), class_="tile-name"),
            element("p", value, class_="tile-value"),
            element("p", f"{ends} · n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}", class_="muted"),
            element("p", f"pictures shuffled: {blind}", class_="muted") if row.blind else None,
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


def _metric_table(rows: Sequence[MetricRow]) -> Markup:
    """A table that becomes one block a row on a narrow screen; the roles keep it a table for screen readers."""
    labels = ("score", "95 % interval", "n", "pictures shuffled", "chance")
    bar_heading = element(
        "th", element("span", "bar", class_="hidden"), scope="col", role="columnheader", class_="bar-cell"
    )
    headings = [element("th", label, scope="col", role="columnheader") for label in ("metric", *labels)]
    body = []
    for row in rows:
        note = said(row.note, "small", "muted") if row.note else None
        bar = score_bar(row.score, row.blind.value if row.blind else None, row.chance, row.largest)
        cells = [element("td", bar, role="cell", class_="bar-cell")]
        cells += [
            element("td", text, role="cell", data_label=label, class_={"score": "value"}.get(label, _EMPTY.get(text)))
            for label, text in zip(labels, _numbers(row), strict=True)
        ]
        name = element("th", said(row.name), note, scope="row", role="rowheader")
        body.append(element("tr", name, *cells, role="row"))
    head = element("thead", element("tr", headings[0], bar_heading, *headings[1:], role="row"), role="rowgroup")
    return element("table", head, element("tbody", *body, role="rowgroup"), class_="metrics", role="table")


def _bar_key(rows: Sequence[MetricRow]) -> Markup:
    parts = ["Bar: score, with its 95 % interval as a whisker"]
    if any(row.blind for row in rows):
        parts.append("solid tick: the same model, each question put to another picture")
    if any(row.chance is not None for row in rows):
        parts.append("dotted tick: chance or the most common answer")
    return element("p", "; ".join(parts) + ".", class_="muted key")


def _verdict(right: bool) -> Markup:
    return element(
        "span", "✓ right" if right else "✗ wrong", class_="verdict is-right" if right else "verdict is-wrong"
    )


def _question(card: QuestionCard, photo_px: int) -> Markup:
    sure = f"{100 * card.confidence:.0f} % sure"
    meter = element("span", Markup(), class_="meter-fill", style=f"width:{100 * min(max(card.confidence, 0), 1):.0f}%")
    text = element(
        "div",
        element("p", said(card.kind), class_="kind") if card.kind else None,
        said(card.question, "p", "asked"),
        element("p", said(card.answer, "strong"), " ", _verdict(card.right), class_="answer"),
        None if card.right else element("p", "truth: ", said(card.truth, "strong"), class_="truth"),
        element("p", element("span", meter, class_="meter", aria_hidden="true"), sure, class_="sure muted"),
        class_="card-text",
    )
    return element("article", picture(card.image, f"Picture for: {card.question}", photo_px), text, class_="card")


def _caption(card: CaptionCard, photo_px: int) -> Markup:
    lines = [
        element(
            "p",
            element("span", language, class_="tongue") if language else None,
            said(sentence, language=language),
            class_="caption",
        )
        for language, sentence in card.captions.items()
    ]
    verdict = None if card.right is None else element("p", _verdict(card.right), class_="answer")
    truth = None if card.right else element("p", "truth: ", said(card.truth), class_="truth")
    text = element("div", *lines, verdict, truth, class_="card-text")
    return element("article", picture(card.image, f"Described as: {card.truth}", photo_px), text, class_="card")


def _search(card: SearchCard, photo_px: int) -> Markup:
    hits = []
    for place, hit in enumerate(card.hits, 1):
        words = f"{place}. {hit.similarity:.2f}"
        match = join(" ", element("span", "✓ match", class_="is-right")) if hit.is_match else None
        image = picture(hit.image, f"Result {place}" + (", the right picture" if hit.is_match else ""), photo_px // 2)
        hits.append(element("li", image, element("span", words, match), class_="hit match" if hit.is_match else "hit"))
    place_text = None
    if card.rank is not None:
        among = f" of {card.searched:,}" if card.searched else ""
        place_text = element("p", f"The right picture is number {card.rank:,}{among}.", class_="muted")
    return element(
        "article", said(card.sentence, "p", "asked"), element("ol", *hits, class_="hits"), place_text, class_="search"
    )


def _mistakes(cards: Sequence[QuestionCard | CaptionCard], photo_px: int) -> Markup | None:
    ordered = sorted(cards, key=lambda card: -(card.confidence or 0.0))
    drawn = [
        _question(card, photo_px) if isinstance(card, QuestionCard) else _caption(card, photo_px) for card in ordered
    ]
    return _cards("Worst mistakes, most confident first", drawn)


def _batch(pictures: Sequence[BatchPicture], photo_px: int) -> Markup | None:
    drawn = [
        element(
            "figure",
            picture(one.image, "Training picture: " + "; ".join(one.texts), photo_px // 2),
            element("figcaption", *(said(text, "p") for text in one.texts)),
        )
        for one in pictures
    ]
    return _cards("A training batch, as the model sees it", drawn, "sheet")


def _ledger(ledger: LedgerSummary) -> Markup:
    rejected = sum(ledger.rejected.values())
    total = f"{ledger.offered:,} examples offered = {ledger.used:,} used + {rejected:,} rejected."
    reasons = [element("li", said(reason), f": {count:,}") for reason, count in ledger.rejected.items()]
    return join(element("p", total), element("ul", *reasons) if reasons else None)


def _facts(report: Report) -> Markup:
    rows = {"recipe": report.facts.recipe, "hardware": report.facts.hardware, "precision": report.facts.precision}
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
