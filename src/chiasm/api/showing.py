"""Tables of results, for the terminal, a prompt and notebooks."""

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType

from chiasm.evaluate.linear_probe.run import Probed
from chiasm.evaluate.measure import SplitResult
from chiasm.report.tables import geometry_line, metric_table

WIDTH = 100
"""Characters of a line at a prompt, at most."""


def measured_tables(measured: SplitResult) -> list[RenderableType]:
    """Scores beside blind scores, scores by kind, and the geometry of the shared space."""
    title = f"{len(measured.examples)} images of split {measured.split!r}"
    tables: list[RenderableType] = [metric_table(measured.rows(), title)]
    if kinds := measured.kind_rows():
        tables.append(metric_table(kinds, "\nby kind"))
    if measured.outcome.geometry:
        tables.append("\n" + geometry_line(measured.outcome.geometry))
    return tables


def probe_tables(probed: Probed) -> list[RenderableType]:
    """Scores of a linear probe, and of few and no examples a class."""
    counted = probed.counts
    fitted = f"linear probe: {counted['fitted']} images fitted, {counted['choosing']} choose the weight decay "
    title = f"{fitted}({probed.decay:g}), {counted['measured']} of {probed.split!r}"
    tables: list[RenderableType] = [metric_table(probed.rows(), title)]
    if rows := probed.shot_rows():
        draws = max(map(len, probed.shots.values()), default=0)
        tables.append(metric_table(rows, f"\nfew shots: mean over draws and its interval; n: {draws} draws"))
    return tables


def as_text(tables: Iterable[RenderableType]) -> str:
    """What a terminal of `WIDTH` characters shows, without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    with console.capture() as captured:
        for table in tables:
            console.print(table, highlight=False)
    return captured.get().rstrip()
