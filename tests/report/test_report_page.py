"""The report page: complete, well formed, safe with hostile texts, and free of outside requests."""

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.evaluate.metric_row import MetricRow
from chiasm.evaluate.verdict import Level, Verdict
from chiasm.metrics.calibration import reliability_bins
from chiasm.metrics.meanings import meaning
from chiasm.metrics.paired import PairedResult
from chiasm.report.cards import charts
from chiasm.report.charts import Chart, Curve, duration, line_chart, log_ticks, reliability_chart, short, ticks
from chiasm.report.example_cards import BatchImage, CaptionCard, QuestionCard, SearchCard, SearchHit
from chiasm.report.forgetting import ForgettingFacts, Interpolation, Mixed, RetentionFacts
from chiasm.report.html import element, image_element
from chiasm.report.page import (
    LARGEST_BYTES,
    LedgerSummary,
    Report,
    RunFacts,
    render,
    write_report,
)
from chiasm.report.tables import geometry_line, in_words, metric_table
from chiasm.report.verdict import WORDS

HOSTILE = "<script>alert('x')</script> \"><img src=http://evil.example/x onerror=alert(1)> & </style>"
VOID = {"meta", "img", "br", "wbr", "link"}


class Page(HTMLParser):
    """Collects elements, visible text and attributes; fails on an end tag that closes nothing."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return "".join(self.text)

    def having(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.elements if name == tag)


def _image(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _report(extra: str = "") -> Report:
    """A report with every part, and `extra` in every text that data or a model can bring in."""
    row = MetricRow(
        "answer_accuracy" + extra, Score(0.9, 0.88, 0.92, 600), Score(0.5, 0.46, 0.54, 600), 0.33, "note" + extra
    )
    row = replace(row, no_picture=Score(0.41, 0.4, 0.42, 600), no_text=Score(0.27, 0.2, 0.3, 600))
    asked = [
        QuestionCard(
            _image(i), f"question number {i}?{extra}", "count" + extra, f"two{extra}", 0.1 * i, "2" + extra, i % 2 == 0
        )
        for i in range(6)
    ]
    described = CaptionCard(
        _image(9), {"en": "a red circle" + extra, "zh": "红色圆形"}, "a blue circle" + extra, False, 0.95
    )
    hits = [SearchHit(_image(20 + i), 0.9 - 0.1 * i, i == 1) for i in range(5)]
    curve = Curve("loss" + extra, [(step, 1 / step) for step in range(1, 50)])
    return Report(
        title="A run" + extra,
        summary="What it is" + extra,
        facts=RunFacts(
            recipe="demo" + extra,
            command="chiasm train demo" + extra,
            hardware="two cores" + extra,
            precision="fp32",
            training_time_s=200,
            steps=1800,
            images_per_s=2690.4,
        ),
        metrics=[row, MetricRow("CIDEr", Score(0.9, 0.8, 1.0, 50), is_share=False, largest=2.0)],
        kinds=[replace(row, name="count" + extra)],
        geometry={"alignment": 0.4123, "modality_gap": 1.335},
        reliability={"vqa_accuracy": reliability_bins([0.15, 0.95, 0.95, 0.95], [False, True, True, False], 10)},
        questions=asked[:3],
        captions=[described],
        searches=[SearchCard("find a circle" + extra, hits, 2, 500)],
        mistakes=[asked[3], asked[5], described],
        charts=[Chart("Loss" + extra, [curve], log_y=True)],
        batch=[BatchImage(_image(30), ["first text" + extra, "second text"])],
        ledger=LedgerSummary(10, 7, {"truncated" + extra: 3}),
        environment={"torch" + extra: "2.13.0" + extra},
        config={"data.path" + extra: "/somewhere" + extra},
    )


def test_every_part_is_on_the_page(tmp_path: Path) -> None:
    """Guards against a part of the report that is silently dropped."""
    path = write_report(tmp_path, _report())
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for text in (
        *("question number 0?", "question number 3?", "a red circle", "红色圆形", "find a circle", "number 2 of 500"),
        *("90.0 %", "88.0 – 92.0", "600", "50.0", "33.0", "41.0", "27.0", "0.900", "0.412", "3 min 20 s"),
        *("first text", "second text", "Geometry of the shared space", "Confidence"),
        *("10 examples offered = 7 used + 3 rejected", "truncated: 3", "2.13.0", "/somewhere", "chiasm train demo"),
    ):
        assert text in page.words, text


def test_mistakes_are_sorted_by_confidence() -> None:
    """The most confident error teaches most: captions (0.95) and questions (0.5, 0.3) share one order."""
    words = Page(render(_report())).words
    part = words[words.index("Worst mistakes") :]
    order = [part.index(text) for text in ("a red circle", "question number 5?", "question number 3?")]
    assert order == sorted(order)


def test_hostile_text_stays_text() -> None:
    """A caption with tags must be shown, never run: guards every place where data meets HTML."""
    page, clean = Page(render(_report(HOSTILE))), Page(render(_report()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in clean.elements]
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.words.count("<script>alert('x')</script>") >= 25


@given(st.text())
def test_any_text_survives(text: str) -> None:
    """Element content and attribute values read back as they were, but for control characters."""
    page = Page("<!doctype html>" + element("p", text, title=text))
    shown = "".join(page.text)
    kept = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)
    assert shown == kept
    assert page.elements[0][1]["title"] == kept


def test_no_outside_request() -> None:
    """The page works offline and tells nobody that it was opened."""
    text = render(_report())
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert name not in attributes or attributes[name].startswith(("data:image/", "#")), (tag, name)
    assert not re.search(r"url\(|@import|https?://", text)
    policy = next(a["content"] for a in page.having("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def _verdict(level: str, **more: Any) -> Verdict:
    words = {"sentence": "Said" + HOSTILE, "metric": "answer_accuracy", "against_start": {}, **more}
    return Verdict(level=level, **words)  # type: ignore[arg-type]


def test_the_page_begins_with_a_verdict() -> None:
    """Guards against a verdict below its numbers, a start drawn with the wrong sign, and advice that is lost."""
    start = {"answer_accuracy": PairedResult(-0.05, -0.1, 0.0, 0.04, 600)}
    said = {"reasons": ("few steps",), "advice": ("more data",)}
    told = _verdict("kept_start", **said, start="starter", against_start=start)
    text = render(replace(_report(), verdict=told))
    page = Page(text)
    assert text.index("Training brought nothing") < text.index('class="tiles"') < text.index("<h2>Results</h2>")
    for words in (
        "Said",
        "few steps",
        "more data",
        "Before training (starter)95.0 %",
        "This run90.0 %",
        "Guessing33.0 %",
    ):
        assert words in page.words, words
    assert not any(name == "script" for name, _ in page.elements)
    shorter = replace(_report(), verdict=_verdict("doubtful", metric="CIDEr", advice=("--set train.steps=200",)))
    text = render(shorter)
    assert "Train again with --set train.steps=200" in Page(text).words
    assert text.index(">CIDEr</p>") < text.index("answer_<wbr>accuracy</p>"), "the verdict's metric is the first tile"
    headings = {level: WORDS[level] for level in get_args(Level)}
    assert len(set(headings.values())) == len(headings) == len(WORDS)
    for level, heading in headings.items():
        used = Page(render(replace(_report(), verdict=_verdict(level), facts=replace(_report().facts, run="runs/a"))))
        assert heading in used.words
        assert ("chiasm serve runs/a" in used.words) == (level == "learned")


def test_links_lead_to_sections() -> None:
    """Guards against a contents list that leads nowhere."""
    page = Page(render(_report()))
    links = [attributes["href"] for attributes in page.having("a")]
    names = [attributes["id"] for attributes in page.having("section") if "id" in attributes]
    assert len(links) > 5 and [f"#{name}" for name in names] == links and len(set(names)) == len(names)


def test_every_metric_is_explained(tiny_run: Path) -> None:
    """Guards against a number that only its maker understands; the names are those that runs store."""
    stored = set(json.loads((tiny_run / "results.json").read_text(encoding="utf-8"))["metrics"])
    others = {"acc1", "acc5", "mean_per_class_recall", "accuracy", "matching_accuracy", "matching_hard_accuracy"}
    others |= {"masked_word_accuracy", "caption_near", "caption_swap_accuracy", "answered_share", "matching_ECE"}
    others |= {"zero_shot_acc1", "zero_shot_acc5", "zero_shot_mean_per_class_recall", "vqa_accuracy_when_answered"}
    for name in stored | others:
        told = meaning(name)
        assert told.endswith(".") and 5 < len(told.split()) < 30 and "{" not in told, name
        assert ("lower is better" in told) == name.endswith("_ECE")
    assert meaning("text_to_image_R@5: zh") == meaning("text_to_image_R@5") != meaning("text_to_image_R@10")
    row = MetricRow("vqa_accuracy", Score(0.5, 0.4, 0.6, 90), chance=0.25)
    assert in_words(row).endswith("Always giving the most common answer reaches 25.0\N{NO-BREAK SPACE}%.")
    assert in_words(MetricRow("unheard_of", row.score)) == ""


def test_accessible_by_structure() -> None:
    """Pictures have alternative texts, tables have scoped headers, charts have words, verdicts are not colour alone."""
    page = Page(render(_report()))
    assert all(attributes["alt"].strip() for attributes in page.having("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.having("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.having("svg"))
    assert next(page.having("html"))["lang"] == "en"
    assert page.words.count("✗ wrong") == 5
    assert page.words.count("✓ right") == 2
    assert any(a.get("lang") == "zh" for a in page.having("span"))


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_have_contrast(mode: int) -> None:
    """WCAG AA (4.5 to 1) of text on the surfaces it stands on, in light (0) and dark (1) mode."""
    css = (files("chiasm.report") / "page.css").read_text(encoding="utf-8")
    found = dict(
        re.findall(
            r"--([\w-]+): (#[0-9a-f]{6})", css.split("@media (prefers-color-scheme: dark)")[mode].split("\n* {")[0]
        )
    )

    def luminance(name: str) -> float:
        parts = [int(found[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(text, surface) for text in ("ink", "soft", "right", "wrong") for surface in ("page", "card")]
    pairs += [("right", "right-bg"), ("wrong", "wrong-bg"), *((f"c{i}", "card") for i in range(6))]
    for text, surface in pairs:
        low, high = sorted((luminance(text), luminance(surface)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, surface)


def _stored(markup: str) -> tuple[str, np.ndarray]:
    source = next(Page(markup).having("img"))["src"]
    kind, content = source.split(",")
    return kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_tiny_picture_is_enlarged_exactly() -> None:
    """Scenes are stored without loss: every third pixel of the stored picture is the original."""
    image = _image(1)
    kind, stored = _stored(image_element(image, "a", 360))
    assert kind == "data:image/png;base64"
    assert stored.shape == (144, 144, 3)
    assert (stored[1::3, 1::3] == image).all()
    assert (stored[::3, ::3] == image).all()


def test_photo_is_stored_small_and_in_shape() -> None:
    """A photo keeps its sides' ratio and its colours (RGB, not BGR)."""
    image = np.zeros((300, 600, 3), np.uint8)
    image[..., 0] = 200
    kind, stored = _stored(image_element(image, "a", 200))
    assert kind == "data:image/jpeg;base64"
    assert stored.shape == (100, 200, 3)
    assert np.abs(stored.reshape(-1, 3).mean(0) - (200, 0, 0)).max() < 3


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_wrong_picture_is_refused(image: np.ndarray) -> None:
    """Floats in [0, 1] would be drawn black."""
    with pytest.raises(InputError, match="uint8"):
        image_element(image, "a", 100)


def test_page_stays_small(tmp_path: Path) -> None:
    """Sixty noisy photos are stored smaller until the page is under 2 MB."""
    photo = np.asarray(Image.fromarray(_image(0, 120, 160)).resize((640, 480), Image.Resampling.BICUBIC))
    cards = [QuestionCard(photo, "what?", "", "a", 0.5, "a", True)] * 60
    report = replace(_report(), questions=cards)
    assert len(render(report).encode()) > LARGEST_BYTES
    assert write_report(tmp_path, report).stat().st_size <= LARGEST_BYTES


def test_empty_parts_are_left_out() -> None:
    """A run without questions has no heading over nothing."""
    bare = Report(title="t", summary="s", facts=_report().facts, metrics=[])
    words = Page(render(bare)).words
    assert "Questions" not in words
    assert "Worst mistakes" not in words
    assert "How to repeat it" in words


def _path_points(svg: str) -> list[tuple[float, float]]:
    path = next(a["d"] for a in Page(svg).having("path") if a.get("class") == "line c0" and a["d"] != "M0 5H24")
    return [(float(x), float(y)) for x, y in (pair.split() for pair in path[1:].split("L"))]


def test_log_axis_makes_a_power_law_straight() -> None:
    """Value = step^-2 on two log axes is a straight line that falls: guards the scale and its direction."""
    points = _path_points(
        line_chart(Chart("t", [Curve("c", [(10.0**k, 10.0 ** (-2 * k)) for k in range(5)])], True, True))
    )
    x, y = np.array(points).T
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.2)
    assert np.allclose(np.diff(y), np.diff(y)[0], atol=0.2)
    assert (np.diff(y) > 0).all()


def test_long_curve_is_thinned_to_means_and_says_so() -> None:
    """1200 alternating values are drawn as their means, at most 240 points, and the reader is told."""
    chart = line_chart(
        Chart("t", [Curve("c", [(i, float(i % 5)) for i in range(1200)]), Curve("d", [(0, 0), (1200, 4)])])
    )
    heights = {y for _, y in _path_points(chart)}
    assert len(_path_points(chart)) == 240
    assert len(heights) == 1
    assert "A drawn point is the mean of 1 or 5 recorded ones." in Page(chart).words


@pytest.mark.parametrize(
    "values",
    [[], [float("nan")], [1.0], [2.0, 2.0], [0.0, 0.0], [float("inf"), 1.0, -3.0], [1e-12, 1e12], [-5.0, -4.0]],
)
@pytest.mark.parametrize("log_y", [False, True])
def test_charts_survive_strange_curves(values: list[float], log_y: bool) -> None:
    """A diverged or one-step run still gets its page, with finite numbers only, and lost values are counted."""
    chart = line_chart(Chart("t", [Curve("c", list(enumerate(values)))], log_y=log_y))
    drawings = " ".join(a.get("d", "") for a in Page(chart).having("path"))
    assert "nan" not in drawings
    assert "inf" not in drawings
    lost = sum(not np.isfinite(v) or (log_y and v <= 0) for v in values)
    assert (f"{lost} values of c cannot be drawn" in chart) == (lost > 0)


def test_ticks_are_round_and_inside() -> None:
    """Guards steps that are off by a power of ten, and floating-point drift at the ends."""
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.31, 0.36) == pytest.approx([0.31, 0.32, 0.33, 0.34, 0.35, 0.36])
    assert ticks(-250, 1000) == pytest.approx([0, 500, 1000])
    assert log_ticks(0.02, 0.2) == pytest.approx([0.02, 0.05, 0.1, 0.2])
    assert log_ticks(1, 1000) == pytest.approx([1, 3, 10, 30, 100, 300, 1000])
    assert log_ticks(1e-4, 1e2) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0005, "5e-4"), (1.33e-6, "1.3e-6"), (1500, "1.5k"), (2.5e6, "2.5M"), (0.25, "0.25")],
)
def test_short_numbers(value: float, text: str) -> None:
    """Axis labels must fit their margin and keep their size."""
    assert short(value) == text


def test_duration() -> None:
    """Seconds as people say them."""
    assert [duration(s) for s in (12.4, 59.6, 200, 7500)] == ["12 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]


def _printed(rows: list[MetricRow], width: int) -> str:
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width).print(metric_table(rows, "val"))
    return buffer.getvalue()


def test_terminal_table_holds_the_same_numbers() -> None:
    """Square brackets in a metric's name are text, not rich's markup."""
    printed = _printed([*_report().metrics, MetricRow("odd [bold]name", Score(0.1, 0.05, 0.2, 1234))], 100)
    for text in ("val", "90.0 %", "88.0–92.0", "600", "50.0", "33.0", "0.900", "odd [bold]name", "1,234", "note"):
        assert text in printed, text


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_table_fits(width: int) -> None:
    """Guards against numbers cut at the edge of a plain terminal, and names folded in the middle of a word."""
    full, many = Score(1.0, 0.987, 1.0, 123_456), replace(_report().metrics[0], note="")
    names = ("text_to_image_R@10", "vqa_accuracy_when_answered", "mean_per_class_recall", "vqa_accuracy: comparison")
    printed = _printed([replace(many, name=name, score=full, blind=full, no_picture=full) for name in names], width)
    lines = printed.splitlines()
    assert max(len(line) for line in lines) <= width and "…" not in printed
    assert printed.count("98.7–100.0") == printed.count("123,456") == len(names)
    start = next(number for number, line in enumerate(lines) if "text_to" in line)
    pieces = [line.split(" 100.0 %")[0].strip() for line in lines[start:]]
    assert "".join(pieces).replace(" ", "") == "".join(names).replace(" ", "")
    ends = ("_", ":", *(name.replace(" ", "_").split("_")[-1] for name in names))
    assert all(piece.endswith(ends) for piece in pieces), pieces


def test_columns_without_numbers_are_left_out() -> None:
    """Guards against a table of dashes, and a blind column whose number nobody measured."""
    printed = _printed([MetricRow("a", Score(0.1, 0.05, 0.2, 10), no_text=Score(0.03, 0.0, 0.1, 10))], 80)
    assert "text" in printed and "3.0" in printed
    assert "shuffled" not in printed and "picture" not in printed and "chance" not in printed


def test_an_error_has_no_bar_and_says_which_way_is_better() -> None:
    """Guards against a large calibration error that looks like a success, and one among the headlines."""
    rows = [MetricRow("vqa_accuracy_ECE", Score(0.2, 0.1, 0.3, 9)), MetricRow("CIDEr", Score(1.1, 1, 1.2, 9), None)]
    for row, drawn in ((rows[0], 0), (rows[1], 0), (replace(rows[1], largest=2.0), 1)):
        page = Page(render(replace(_report(), metrics=[row], kinds=[])))
        assert sum(a.get("class") == "bar" for a in page.having("svg")) == drawn
        assert sum(a.get("class") == "tile" for a in page.having("li")) == (not row.is_error)
        assert ("lower is better" in page.words) == row.is_error
    assert "lower is better" in " ".join(_printed(rows, 80).split())


def test_geometry_line() -> None:
    """Guards against a number that is left out where there is no page."""
    said = geometry_line({"image_uniformity": -2.0504, "modality_gap": 0.5})
    assert said == "geometry: image uniformity -2.050, modality gap 0.500"


def test_a_model_that_does_not_know_is_neither_right_nor_wrong() -> None:
    """Guards against an abstention that is judged like an answer."""
    card = QuestionCard(_image(1), "what?", "", "red", 0.1, "blue", False, abstains=True)
    words = Page(render(replace(_report(), questions=[card], captions=(), mistakes=()))).words
    assert "? abstains" in words and "its guess: red" in words and "truth: blue" in words
    assert "✗ wrong" not in words and "✓ right" not in words


def test_reliability_chart_puts_points_where_the_numbers_say() -> None:
    """Guards against swapped axes, an axis upside down, and a count over another bin."""
    chart = Page(
        reliability_chart(reliability_bins([0.1] * 4 + [0.9] * 1500, [0, 1, 0, 0] + [1] * 1500, 10), "vqa_accuracy")
    )
    low, high = (
        (float(a["cx"]), float(a["cy"])) for name, a in chart.elements if name == "circle" and a["class"] == "dot c0"
    )
    diagonal = next(a["d"] for a in chart.having("path") if a["class"] == "diagonal")
    (x0, y0), (x1, y1) = (tuple(map(float, part.split())) for part in diagonal[1:].split("L"))
    assert x0 < x1 and y0 > y1
    assert low == pytest.approx((x0 + 0.1 * (x1 - x0), y0 + 0.25 * (y1 - y0)), abs=0.06)
    assert high == pytest.approx((x0 + 0.9 * (x1 - x0), y1), abs=0.06)
    counts = [a for a in chart.having("text") if a["class"] == "count"]
    assert [float(a["x"]) for a in counts] == pytest.approx([x0 + at * (x1 - x0) for at in (0.05, 0.85)], abs=0.06)
    words = [text for text in chart.text if text in ("4", "1.5k")]
    assert words == ["4", "1.5k"]
    label = next(a["aria-label"] for a in chart.having("svg"))
    assert "25% right where 10% sure (n 4)" in label


def test_charts_of_the_metrics_file() -> None:
    """Guards against CIDEr or a calibration error drawn as a share, and cosines on an axis that hides their sign."""
    rows = [
        {"step": 1, "vqa_loss": 2.0, "grad_norm": 1.0, "cosine/vqa~captioning": 0.25},
        {"step": 2, "val/CIDEr": 1.3, "val/vqa_accuracy": 0.5, "val/vqa_accuracy_ECE": 0.1, "val/Bleu_1": 0.4},
    ]
    made = {chart.title: chart for chart in charts(rows)}
    assert [curve.name for curve in made["Validation"].curves] == ["vqa_accuracy"]
    assert [curve.name for curve in made["Validation: captions"].curves] == ["CIDEr"]
    assert [curve.name for curve in made["Validation: calibration error, lower is better"].curves] == [
        "vqa_accuracy_ECE"
    ]
    agreement = made["Agreement of the tasks' gradients (cosine)"]
    assert [(curve.name, list(curve.points)) for curve in agreement.curves] == [("vqa ~ captioning", [(1, 0.25)])]
    assert not made["Validation: captions"].is_share and made["Validation"].is_share
    labels = [text for text in Page(line_chart(agreement)).text if text in ("-1", "-0.5", "0", "0.5", "1")]
    assert {"-1", "0", "1"} <= set(labels)
    assert "Agreement of the tasks' gradients (cosine)" not in {chart.title for chart in charts(rows[1:])}


def test_what_it_knew_before_stands_in_words_and_curves() -> None:
    """Guards against ends that are swapped, a loss that is not said, and a mark at a share that was not chosen."""
    before, after = Score(0.5, 0.45, 0.55, 500), Score(0.4, 0.35, 0.45, 500)
    retention = RetentionFacts("text_to_image_R@10", "500 pictures", before, after, 0.05, "ended at step 20")
    rows = [Mixed(alpha, Score(0.1 + alpha, 0.0, 1.0, 90), Score(0.5 - 0.1 * alpha, 0.3, 0.6, 500)) for alpha in (0, 1)]
    facts = ForgettingFacts(
        1e-4, "0.0001: by size" + HOSTILE, retention, Interpolation("acc1", rows, 1, "best" + HOSTILE)
    )
    page = Page(render(replace(_report(), forgetting=facts)))
    assert "50.0 % before training, 40.0 % after: 80 % kept, 95 % required — less than required." in page.words
    assert "ended at step 20" in page.words and "0.0001: by size" in page.words
    told = next(a["aria-label"] for a in page.having("svg") if "Weights between" in a.get("aria-label", ""))
    assert "acc1 from 10% to 110%" in told and "old domain from 50% to 40%" in told and "chosen: 1 from 110%" in told
    assert not any(name == "script" for name, _ in page.elements)
    assert (
        "Accuracy on the old domain"
        not in Page(render(replace(_report(), forgetting=ForgettingFacts(1e-3, "set")))).words
    )
    stored = facts.as_dict()
    assert stored["retention"]["kept"] == pytest.approx(0.8)
    assert stored["interpolation"]["curve"][1] == {
        "alpha": 1,
        "acc1": rows[1].new.as_dict(),
        "old": rows[1].old.as_dict(),
    }
