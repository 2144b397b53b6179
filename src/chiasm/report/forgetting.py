"""Measures against forgetting: learning rate, retention check, interpolation of weights.

Plain data for `results.json`, and the part of the report page that shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.core.types import Score
from chiasm.evaluate.class_share import ClassShare
from chiasm.report.charts import Chart, Curve, line_chart
from chiasm.report.html import Child, Markup, element, join, said

RETENTION_ROWS = ("retention/", "probe/")
"""Prefixes of the old domain's metric in `metrics.jsonl`; runs started by the version before wrote the second."""


@dataclass(frozen=True, slots=True)
class RetentionFacts:
    """The old domain before and after training."""

    metric: str
    about: str
    """What was measured, such as "500 images of the split “val”"."""
    before: Score
    after: Score
    """Of the weights that are saved."""
    max_drop: float
    """Share of `before` that might be lost."""
    stopped: str = ""
    """Why training ended early; "" where it did not."""

    @property
    def kept(self) -> float:
        """Share of the first value that is left; 1 where there was nothing to lose."""
        return self.after.value / self.before.value if self.before.value else 1.0

    def sentence(self) -> str:
        """Both numbers in words."""
        enough = "" if self.after.value >= (1 - self.max_drop) * self.before.value else " — less than required"
        return (
            f"{self.metric} on the old domain ({self.about}): {_share(self.before)} before training, "
            f"{_share(self.after)} after: {100 * self.kept:.0f} % kept, {100 * (1 - self.max_drop):.0f} % required"
            f"{enough}."
        )


@dataclass(frozen=True, slots=True)
class Mixed:
    """Both domains at one share of the weights after training; `old` is None without a retention check."""

    alpha: float
    """0 is before training, 1 after."""
    new: Score
    old: Score | None


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Scores along the interpolation from the weights before training to those after it."""

    metric: str
    """Of the new domain's validation."""
    rows: Sequence[Mixed]
    alpha: float
    """The share that was chosen."""
    rule: str


@dataclass(frozen=True, slots=True)
class ForgettingFacts:
    """A run's measures against forgetting, and their results."""

    learning_rate: float
    why: str
    retention: RetentionFacts | None = None
    interpolation: Interpolation | None = None
    class_share: ClassShare | None = None

    def as_dict(self) -> dict[str, Any]:
        """The section "forgetting" of `results.json`."""
        found: dict[str, Any] = {"learning_rate": {"peak": self.learning_rate, "why": self.why}}
        if self.retention:
            facts = self.retention
            found["retention"] = {
                **{name: getattr(facts, name) for name in ("metric", "about", "max_drop", "kept", "stopped")},
                "before": facts.before.as_dict(),
                "after": facts.after.as_dict(),
            }
        if self.interpolation:
            interpolation = self.interpolation
            curve = [
                {
                    "alpha": row.alpha,
                    interpolation.metric: row.new.as_dict(),
                    "old": row.old.as_dict() if row.old else None,
                }
                for row in interpolation.rows
            ]
            found["interpolation"] = {
                "alpha": interpolation.alpha,
                "metric": interpolation.metric,
                "rule": interpolation.rule,
                "curve": curve,
            }
        if self.class_share:
            found["class_share"] = self.class_share.as_dict()
        return found


def retention_chart(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The old domain over the steps, from the rows of `metrics.jsonl`; None without a retention check."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(RETENTION_ROWS):
                points.setdefault(name.partition("/")[2], []).append((row["step"], value))
    curves = [Curve(metric, found) for metric, found in points.items()]
    return Chart("The old domain, while the new one is learned", curves, is_share=True) if curves else None


def forgetting_section(facts: ForgettingFacts) -> Markup | None:
    """The part of the page; None with neither a retention check nor interpolation."""
    if not (facts.retention or facts.interpolation):
        return None
    parts: list[Child] = [element("h2", "Accuracy on the old domain")]
    if facts.retention:
        parts.append(element("p", facts.retention.sentence()))
        parts.append(element("p", facts.retention.stopped) if facts.retention.stopped else None)
    if facts.interpolation:
        parts.append(_way(facts.interpolation))
    return element("section", *parts)


def _way(way: Interpolation) -> Markup:
    chosen = next(row for row in way.rows if row.alpha == way.alpha)
    curves = [Curve(f"new domain: {way.metric}", [(row.alpha, row.new.value) for row in way.rows])]
    if chosen.old:
        curves.append(Curve("old domain", [(row.alpha, row.old.value) for row in way.rows if row.old]))
    curves.append(Curve(f"chosen: {way.alpha:g}", [(way.alpha, chosen.new.value)]))
    chart = Chart("Weights between before (0) and after training (1)", curves, is_share=True, x_label="share")
    heads = ["share", f"new domain: {way.metric}", *(["old domain"] if chosen.old else [])]
    head = element("tr", *(element("th", heading, scope="col") for heading in heads))
    body = [element("tr", *(element("td", cell) for cell in _cells(row))) for row in way.rows]
    table = element("table", element("thead", head), element("tbody", *body), class_="numbers")
    numbers = element("details", element("summary", "The numbers, with 95 % intervals"), table)
    return join(said(way.rule, "p", "muted key"), element("div", line_chart(chart), class_="charts way"), numbers)


def _cells(row: Mixed) -> list[str]:
    scores = [row.new, *([row.old] if row.old else [])]
    return [
        f"{row.alpha:g}",
        *(f"{_share(score)} ({100 * score.low:.1f} – {100 * score.high:.1f})" for score in scores),
    ]


def _share(score: Score) -> str:
    return f"{100 * score.value:.1f} %"
