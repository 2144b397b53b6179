"""The first panel of the report: the verdict with its baselines, reasons and advice."""

from collections.abc import Sequence

from chiasm.evaluate.metric_row import MetricRow
from chiasm.evaluate.verdict import Verdict
from chiasm.metrics.meanings import guessing, meaning
from chiasm.report.html import Child, Markup, element, said
from chiasm.report.tables import value_in

WORDS = {
    "learned": "✓ It has learned",
    "kept_start": "! Training brought nothing",
    "doubtful": "? Doubtful",
    "not_learned": "✗ It has not learned",
}
"""Level of a verdict -> its heading; the sign says it without colour."""


def verdict_section(verdict: Verdict, rows: Sequence[MetricRow], run: str) -> Markup:
    """The panel of the verdict.

    Args:
        verdict: of the run.
        rows: its scores; the one of the verdict's metric is drawn beside what it must beat.
        run: the run folder, for the command that uses it; "" where it is not known.
    """
    row = next((candidate for candidate in rows if candidate.name == verdict.metric), None)
    steps: list[Child] = [
        said(f"Train again with {step}" if step.startswith("--") else step) for step in verdict.advice
    ]
    if verdict.level in ("learned", "doubtful"):
        steps.append("Look at its worst mistakes below before you rely on it.")
        if run and verdict.level == "learned":
            steps.append(element("span", "Use it: ", element("code", f"chiasm serve {run}"), "."))
    parts: list[Child] = [
        element("h2", WORDS[verdict.level]),
        said(verdict.sentence, "p"),
        said(f"{verdict.metric}: {meaning(verdict.metric)}", "p", "muted") if meaning(verdict.metric) else None,
        _beaten(verdict, row) if row else None,
        *_list("What speaks against it", [said(reason) for reason in verdict.reasons]),
        *_list("What to do next", steps),
    ]
    return element("section", *parts, class_=f"panel is-{verdict.level.replace('_', '-')}")


def _list(heading: str, items: Sequence[Child]) -> list[Markup]:
    if not items:
        return []
    return [element("h3", heading), element("ul", *(element("li", item) for item in items), class_="points")]


def _beaten(verdict: Verdict, row: MetricRow) -> Markup:
    """The score beside what it must beat, as bars on one scale."""
    values = {"This run": row.score.value}
    if verdict.start and row.name in verdict.against_start:
        values[f"Before training ({verdict.start})"] = row.score.value - verdict.against_start[row.name].difference
    if row.blind:
        values["Images shuffled"] = row.blind.value
    if row.chance is not None:
        values[guessing(row.name)] = row.chance
    full = max(1.0, *values.values()) if row.is_share else max(*values.values(), 1e-9)
    lines = []
    for name, value in values.items():
        text = f"{100 * value:.1f} %" if row.is_share else f"{value:.3f}"
        width = f"width:{100 * min(max(value / full, 0.0), 1.0):.1f}%"
        bar = element("span", element("span", "", class_="meter-fill", style=width), class_="meter", aria_hidden="true")
        lines.append(element("div", element("dt", name), element("dd", bar, element("strong", text))))
    ends = f"95 % interval of this run: {value_in(row, '95 % interval')}, n {row.score.n:,}."
    return element("div", element("dl", *lines, class_="versus"), element("p", ends, class_="muted"))
