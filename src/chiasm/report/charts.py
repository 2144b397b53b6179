"""Charts as inline SVG: lines with axes, and the small bar of a score with its interval.

Colours and fonts are classes of the page's style sheet, so the charts follow the reader's light or dark mode.
Curves differ by dash as well as by colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.core.types import Score
from chiasm.metrics.calibration import ReliabilityBin
from chiasm.report.html import Markup, element, join

WIDTH, HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 52, 10, 28
_MOST_POINTS = 240
_LABEL_HEIGHT = 14.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line: `(step, value)` pairs in order of step. Values that are not finite leave a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves that share axes."""

    title: str
    curves: Sequence[Curve]
    log_x: bool = False
    """Logarithmic steps; points at step 0 or below are left out."""
    log_y: bool = False
    """Logarithmic values; points at 0 or below are left out."""
    is_share: bool = False
    """Values are shares in [0, 1] and are printed in percent."""
    limits: tuple[float, float] | None = None
    """Ends of a linear value axis; None follows the values."""
    x_label: str = "steps"
    """What the first number of a point is."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values to pixels; `low` and `high` are in the mapped (linear or log10) space."""

    low: float
    high: float
    start_px: float
    stop_px: float
    is_log: bool

    def __call__(self, value: float) -> float:
        mapped = math.log10(value) if self.is_log else value
        return self.start_px + (mapped - self.low) / (self.high - self.low) * (self.stop_px - self.start_px)


def line_chart(chart: Chart) -> Markup:
    """Draw a chart as a `figure`: title, legend, axes, lines, and each curve's last value at its end.

    A curve of more than 240 points is drawn as means of equal runs of points, and the caption says so.
    """
    drawn, notes, runs = [], [], set()
    for curve in chart.curves:
        kept = [p for p in curve.points if _can_draw(p, chart)]
        thinned, run = _thin(kept)
        runs.add(run)
        if len(kept) < len(curve.points):
            lost = len(curve.points) - len(kept)
            notes.append(f"{lost} values of {curve.name} cannot be drawn (not finite, or not above 0 on a log axis).")
        drawn.append(Curve(curve.name, thinned))
    if max(runs, default=1) > 1:
        notes.append("A drawn point is the mean of " + " or ".join(map(str, sorted(runs))) + " recorded ones.")
    title = element("h3", chart.title)
    points = [point for curve in drawn for point in curve.points]
    if not points:
        nothing = element("p", " ".join(["Nothing to draw.", *notes]), class_="muted")
        return element("figure", title, nothing, class_="chart")
    x = _scale([p[0] for p in points], _LEFT, WIDTH - _RIGHT, chart.log_x)
    if chart.limits:
        y = _Scale(*chart.limits, HEIGHT - _BOTTOM, _TOP, is_log=False)
    else:
        y = _scale([p[1] for p in points], HEIGHT - _BOTTOM, _TOP, chart.log_y, pad=0.06, share=chart.is_share)
    parts = [_axes(x, y, chart)]
    parts += [_line(curve, number, x, y) for number, curve in enumerate(drawn) if curve.points]
    parts += _end_labels(drawn, x, y, chart)
    svg = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=_in_words(chart, drawn))
    legend = element("ul", *(_legend_entry(c.name, number) for number, c in enumerate(drawn)), class_="legend")
    note = element("figcaption", " ".join(notes), class_="muted") if notes else None
    return element("figure", title, legend, svg, note, class_="chart")


def reliability_chart(bins: Sequence[ReliabilityBin], title: str) -> Markup:
    """Draw a reliability diagram: a point a bin with its 95 % interval, the bin's count above it, and the diagonal.

    On the diagonal the event (`title`) happens as often as predicted; below it the model is overconfident.
    """
    x = _Scale(0.0, 1.0, _LEFT, WIDTH - 20, is_log=False)
    y = _Scale(0.0, 1.0, HEIGHT - _BOTTOM - 14, _TOP + 16, is_log=False)
    parts = []
    for value in ticks(0.0, 1.0):
        across, up, label = round(x(value), 1), round(y(value), 1), short(value, is_share=True)
        parts.append(element("path", class_="grid", d=f"M{x(0):g} {up}H{x(1):g}"))
        parts.append(element("text", label, class_="tick", x=_LEFT - 6, y=up + 4, text_anchor="end"))
        parts.append(element("text", label, class_="tick", x=across, y=y(0) + 17, text_anchor="middle"))
    parts.append(element("path", class_="diagonal", d=f"M{x(0):g} {y(0):g}L{x(1):g} {y(1):g}"))
    parts.append(element("text", "confidence", class_="tick", x=x(0.5), y=HEIGHT - 4, text_anchor="middle"))
    parts.append(element("text", "n", class_="tick", x=_LEFT - 6, y=_TOP + 4, text_anchor="end"))
    for each in bins:
        across, score = round(x(each.confidence), 1), each.accuracy
        low, high = round(y(score.low), 1), round(y(score.high), 1)
        parts.append(element("path", class_="point-whisker", d=f"M{across} {low}V{high}"))
        parts.append(element("circle", class_="dot c0", cx=across, cy=round(y(score.value), 1), r=3.4))
        middle = round(x((each.low + each.high) / 2), 1)
        parts.append(element("text", _count(score.n), class_="count", x=middle, y=_TOP + 4, text_anchor="middle"))
    description = "; ".join(
        f"{short(each.accuracy.value, True)} right where {short(each.confidence, True)} sure (n {each.accuracy.n})"
        for each in bins
    )
    svg = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {description}")
    note = "In bins of equal confidence: share that is right, with its 95 % interval. Below the dotted line "
    note += "the model is too confident."
    return element("figure", element("h3", title), svg, element("figcaption", note, class_="muted"), class_="chart")


def score_bar(score: Score, blind: float | None, chance: float | None, largest: float) -> Markup:
    """Draw a score as a bar from 0 to `largest`, its interval as a whisker, blind and chance scores as ticks.

    Hidden from screen readers, since the table has the same numbers.
    """

    def at(value: float) -> float:
        return round(min(max(value / largest, 0.0), 1.0) * 196 + 2, 1)

    low, high = at(score.low), at(score.high)
    parts = [
        element("rect", class_="bar-track", x=2, y=5, width=196, height=8, rx=2),
        element("rect", class_="bar-fill", x=2, y=5, width=max(at(score.value) - 2, 0.5), height=8, rx=2),
        element("path", class_="bar-whisker", d=f"M{low} 9H{high}M{low} 5.5V12.5M{high} 5.5V12.5"),
    ]
    if blind is not None:
        parts.append(element("path", class_="bar-blind", d=f"M{at(blind)} 1V17"))
    if chance is not None:
        parts.append(element("path", class_="bar-chance", d=f"M{at(chance)} 1V17"))
    return element("svg", *parts, class_="bar", viewBox="0 0 200 18", aria_hidden="true", preserveAspectRatio="none")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about `count` of them."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with their 2 and 5 within one decade, with their 3 within three."""
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades <= 1 else (1, 3) if decades <= 3 else (1,)
    every = max(1, round(decades / 5))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def short(value: float, is_share: bool = False) -> str:
    """A number in few letters: 12.5%, 1.2k, 0.314, 5e-4."""
    if is_share:
        return f"{100 * value:.3g}%"
    size = abs(value)
    if size >= 1e9 or 0 < size < 0.01:
        digits, power = f"{value:.1e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1000:.3g}k" if size >= 1000 else f"{value:.3g}"


def _count(number: int) -> str:
    return str(number) if number < 1000 else f"{number / 1000:.2g}k" if number < 100_000 else f"{number // 1000}k"


def duration(seconds: float) -> str:
    """A duration in words: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _can_draw(point: Point, chart: Chart) -> bool:
    step, value = point
    return (
        math.isfinite(step)
        and math.isfinite(value)
        and (step > 0 or not chart.log_x)
        and (value > 0 or not chart.log_y)
    )


def _thin(points: Sequence[Point]) -> tuple[list[Point], int]:
    run = -(-len(points) // _MOST_POINTS) if points else 1
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups], run


def _scale(
    values: Sequence[float], start_px: float, stop_px: float, is_log: bool, pad: float = 0.0, share: bool = False
) -> _Scale:
    mapped = [math.log10(value) if is_log else value for value in values]
    low, high = min(mapped), max(mapped)
    # A constant curve has no extent of its own; one hundredth of its size keeps the axis readable.
    spread = (high - low) or max(abs(high) * 0.1, 0.01)
    if high == low:
        low, high = low - spread, high + spread
    low, high = low - pad * spread, high + pad * spread
    if not is_log and min(values) >= 0:
        low = max(low, 0.0)
    if share and not is_log:
        high = min(high, 1.0) if max(values) <= 1 else high
    return _Scale(low, high, start_px, stop_px, is_log)


def _axes(x: _Scale, y: _Scale, chart: Chart) -> Markup:
    parts = []
    for value in _axis_ticks(y, 5):
        at = round(y(value), 1)
        parts.append(element("path", class_="grid", d=f"M{_LEFT} {at}H{WIDTH - _RIGHT}"))
        label = short(value, chart.is_share)
        parts.append(element("text", label, class_="tick", x=_LEFT - 6, y=at + 4, text_anchor="end"))
    parts.append(element("path", class_="axis", d=f"M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"))
    for value in _axis_ticks(x, 4):
        label = short(value)
        parts.append(element("text", label, class_="tick", x=round(x(value), 1), y=HEIGHT - 10, text_anchor="middle"))
    parts.append(element("text", chart.x_label, class_="tick", x=WIDTH - 4, y=HEIGHT - 10, text_anchor="end"))
    return join(*parts)


def _axis_ticks(scale: _Scale, count: int) -> list[float]:
    if not scale.is_log:
        return ticks(scale.low, scale.high, count)
    found = log_ticks(10**scale.low, 10**scale.high)
    return found if len(found) > 1 else ticks(10**scale.low, 10**scale.high, count)


def _line(curve: Curve, number: int, x: _Scale, y: _Scale) -> Markup:
    place = [(round(x(step), 1), round(y(value), 1)) for step, value in curve.points]
    path = "M" + "L".join(f"{a:g} {b:g}" for a, b in place)
    end = element("circle", class_=f"dot c{number % 6}", cx=place[-1][0], cy=place[-1][1], r=2.6)
    return join(element("path", class_=f"line c{number % 6}", d=path), end)


def _end_labels(curves: Sequence[Curve], x: _Scale, y: _Scale, chart: Chart) -> list[Markup]:
    """The last values, pushed apart where lines end close together; dropped where they would not fit."""
    ends = sorted(
        (y(c.points[-1][1]), x(c.points[-1][0]), number, c.points[-1][1]) for number, c in enumerate(curves) if c.points
    )
    if len(ends) * _LABEL_HEIGHT > HEIGHT - _TOP - _BOTTOM:
        return []
    heights: list[float] = []
    for at, *_ in ends:
        heights.append(max(at, heights[-1] + _LABEL_HEIGHT if heights else _TOP + 2))
    for place in range(len(heights) - 1, -1, -1):
        ceiling = heights[place + 1] - _LABEL_HEIGHT if place + 1 < len(heights) else HEIGHT - _BOTTOM - 4
        heights[place] = min(heights[place], ceiling)
    return [
        element(
            "text",
            short(value, chart.is_share),
            class_=f"end c{number % 6}",
            x=round(across + 7, 1),
            y=round(at + 4, 1),
        )
        for at, (_, across, number, value) in zip(heights, ends, strict=True)
    ]


def _legend_entry(name: str, number: int) -> Markup:
    swatch = element("path", class_=f"line c{number % 6}", d="M0 5H24")
    return element("li", element("svg", swatch, viewBox="0 0 24 10", aria_hidden="true"), name)


def _in_words(chart: Chart, curves: Sequence[Curve]) -> str:
    description = [
        f"{c.name} from {short(c.points[0][1], chart.is_share)} to {short(c.points[-1][1], chart.is_share)}"
        for c in curves
        if c.points
    ]
    return f"Line chart, {chart.title}: " + ", ".join(description)
