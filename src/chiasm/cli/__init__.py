"""The door: words typed by a person -> one call -> printed result.

No machine learning, and nothing heavy imported before a verb needs it, so that `chiasm --help` is instant. The verbs
stand in modules by what they are for; this one names them and turns errors into messages.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from chiasm import __version__
from chiasm.cli.asking import ask, caption, classify, embed, match
from chiasm.cli.exporting import export
from chiasm.cli.measuring import evaluate, probe
from chiasm.cli.searching import index, search
from chiasm.cli.serving import serve
from chiasm.cli.training import demo, recipes, show, train
from chiasm.core.errors import ChiasmError, InputError, from_system

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn image-text files into a model that people can ask, search and trust.\n\n"
    "Start with: [bold]chiasm demo[/bold]",
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"chiasm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_tell_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Options for every verb stand before it: `chiasm --debug train ...`."""
    if debug:
        os.environ["CHIASM_DEBUG"] = "1"


for _verb in (demo, recipes, show, train, evaluate, probe, ask, caption, match, classify, embed, search, serve, export):
    app.command()(_verb)
app.add_typer(index, name="index")


def verbs(group: Any = None, before: str = "") -> dict[str, Any]:
    """Every verb by the words that are typed for it, such as "index build", for the help page and its tests."""
    found: dict[str, Any] = {}
    commands: Any = group or typer.main.get_command(app)
    for name, command in commands.commands.items():
        words = f"{before}{name}"
        found |= verbs(command, f"{words} ") if hasattr(command, "commands") else {words: command}
    return found


@contextmanager
def _errors() -> Iterator[None]:
    """Turn errors into one message and an exit status; a traceback only with --debug."""
    try:
        yield
    except Exception as error:
        if os.environ.get("CHIASM_DEBUG"):
            raise
        error = from_system(error) if isinstance(error, OSError | MemoryError) else error
        if not isinstance(error, ChiasmError):
            said = f"chiasm: a mistake of chiasm's own: {type(error).__name__}: {error}"
            typer.echo(f"{said}\n  do: `chiasm --debug VERB ...` shows where; please report it", err=True)
            sys.exit(1)
        word = "wrong input" if isinstance(error, InputError) else "stopped"
        typer.echo(f"chiasm: {word}: {error}", err=True)
        sys.exit(error.exit_code)


def _at_home(word: str) -> str:
    """Put the home folder for the ~ of `--out=~/runs`, and of a quoted path; a shell replaces only a word's first."""
    name, equals, value = word.partition("=")
    if name.startswith("--") and equals and value.startswith("~"):
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(word) if word.startswith("~/") else word


def main() -> None:
    """Entry point of the `chiasm` command."""
    # OpenMP threads that spin for long while they wait starve each other as soon as anything else runs: with a second
    # job on two cores, the tiny demo did 0.1 steps a second, and 1.8 once they went to sleep (docs/log.md).
    # A short spin keeps the speed of an idle machine. Must be set before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    sys.argv[1:] = [_at_home(word) for word in sys.argv[1:]]
    with _errors():
        app()
