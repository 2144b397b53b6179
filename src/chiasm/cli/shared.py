"""Options of several verbs, opening a run, and printing and writing results."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from chiasm.core.types import Domain, Prediction
    from chiasm.data.ledger import Ledger
    from chiasm.evaluate.metric_row import MetricRow
    from chiasm.evaluate.verdict import Verdict
    from chiasm.serve.engine import Model

T = TypeVar("T")


class Verbs(TyperGroup):
    """A group of verbs whose help shows the whole first sentence of each.

    With `rich_markup_mode=None` the help is plain text: to load the library that draws boxes takes as long as all else
    that `chiasm --help` does.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs; typer's own ends each line with three dots where the terminal ends."""
        listed = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(limit=1000)) for name, verb in listed if verb])


def writable(path: Path | None) -> Path | None:
    """Check before the work starts that the output file can be written."""
    if path is not None:
        folder = next(one for one in path.absolute().parents if one.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{path} cannot be written", "a file in a folder that may be written to", "give another")
    return path


Run = Annotated[
    Path, typer.Argument(help="A run folder, made by `chiasm demo` or `chiasm train`; or the word starter.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the result to this file.", metavar="FILE", callback=writable),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a config key; may be repeated. `chiasm show RECIPE` lists the keys.", metavar="KEY=VALUE"
    ),
]
SetDecoding = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change the decoding of captions and answers, such as decoding.method=beam; may be repeated.",
        metavar="decoding.KEY=VALUE",
    ),
]


def load(run: Path, typed: Sequence[str] | None = None) -> "Model":
    """Open a run; `typed` are the texts of `--set`: `decoding.KEY=VALUE`, `model.execution=VALUE`."""
    from chiasm.api.opening import load as open_run
    from chiasm.api.overrides import as_overrides

    return open_run(run, overrides=as_overrides(typed or ()))


def console() -> "Console":
    """The console of results: standard output."""
    from rich.console import Console

    return Console()


def notes() -> "Console":
    """The console of progress and remarks: standard error."""
    from chiasm.core.log import stderr_console

    return stderr_console()


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(text)


def print_tables(tables: Iterable["RenderableType"], ledger: "Ledger") -> None:
    """Print tables of results, and the number of rejected files."""
    for table in tables:
        console().print(table, highlight=False)
    if ledger.rejected:
        say(ledger.summary())


def print_verdict(verdict: "Verdict", rows: Sequence["MetricRow"]) -> None:
    """Print the verdict of a run, and its comparison with the model that it was initialised from."""
    from rich.markup import escape

    from chiasm.report.tables import difference_table

    shown = console()
    first, *rest = verdict.lines()
    colour = {"learned": "green", "not_learned": "red"}.get(verdict.level, "yellow")
    shown.print(f"\n[bold {colour}]{escape(first)}[/bold {colour}]", highlight=False)
    for line in rest:
        shown.print(line, highlight=False, markup=False)
    if verdict.against_start:
        shown.print(f"\nthis run less the {verdict.start}, on the same items", highlight=False)
        shown.print(difference_table(rows, verdict.against_start))


def print_rejected(ledger: "Ledger") -> None:
    """Print the number of rejected files, and the first ten with the reason."""
    if ledger.rejected:
        shown = notes()
        shown.print(f"[yellow]{ledger.summary()}[/yellow]", highlight=False)
        for entry in [one for one in ledger.entries if one.kind == "rejected"][:10]:
            shown.print(f"  {entry.file}: {entry.text}", highlight=False, soft_wrap=True)


def with_bar(work: Callable[[Callable[[int, int], None]], T]) -> T:
    """Run `work(progress)` with a progress bar, which appears once there are images to encode."""
    from chiasm.core.log import Bar

    open_bars: list[Bar] = []

    def progress(done: int, total: int) -> None:
        if not open_bars and total:
            open_bars.append(Bar(notes(), "encoding images", "images", total))
        for one in open_bars:
            one.update(done)

    try:
        return work(progress)
    finally:
        for one in open_bars:
            one.close()


def note(text: str) -> None:
    """Print a line beside the result."""
    notes().print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def remark(model: "Model", texts: Sequence[str]) -> None:
    """Print a note about truncated texts and words outside the vocabulary."""
    for text in texts:
        for one in model.pipeline.codec.tokenizer.remarks(text):
            shown = text if len(text) <= 40 else text[:37] + "..."
            note(f"{shown!r}: {one}")


def doubts(prediction: "Prediction") -> list[str]:
    """Messages with the reasons not to trust an answer."""
    found = []
    if "low_confidence" in prediction.abstain_reasons:
        found.append("not sure: the confidence is below this model's threshold for answering")
    if prediction.domain is not None and prediction.domain.is_outside:
        found.append(outside(prediction.domain))
    return found


def outside(domain: "Domain") -> str:
    """Message about inputs outside the training data: which, how far, and because of which words."""
    parts = []
    if "image_out_of_domain" in domain.reasons:
        parts.append(f"the image (distance {domain.image_distance:.1f}, limit 1)")
    if "text_out_of_domain" in domain.reasons:
        words = "; words not in training: " + ", ".join(domain.unknown_words[:8]) if domain.unknown_words else ""
        parts.append(f"the text (distance {domain.text_distance:.1f}, limit 1{words})")
    return "unlike what this model was trained on: " + " and ".join(parts)


def write_result(path: Path | None, value: Any) -> None:
    """Write the result to the file of `--json`."""
    if path is not None:
        from chiasm.core.files import write_json

        write_json(path, value)
