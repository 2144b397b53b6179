"""The command line: parse arguments, call one function of `chiasm.api` or `chiasm.serve`, print the result.

It contains no machine learning and imports heavy libraries only inside verbs, so `chiasm --help` is fast. The verbs are
grouped in modules by purpose; this module registers them and turns errors into messages.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from chiasm import __version__
from chiasm.cli.asking import ask, caption, classify, embed, match
from chiasm.cli.bench_verb import bench
from chiasm.cli.chatting import chat
from chiasm.cli.compress_verb import compress
from chiasm.cli.draw_verb import draw
from chiasm.cli.exporting import export
from chiasm.cli.generating import generate
from chiasm.cli.measuring import evaluate, probe
from chiasm.cli.searching import index, search
from chiasm.cli.serving import serve
from chiasm.cli.shared import Verbs
from chiasm.cli.training import demo, recipes, show, train
from chiasm.core.errors import ChiasmError, InputError, from_system

app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn image-text files into a model that people can ask, search and trust.\n\nStart with: chiasm demo",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"chiasm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Options of all verbs, which come before the verb: `chiasm --debug train ...`."""
    if debug:
        os.environ["CHIASM_DEBUG"] = "1"


for _verb in (
    demo,
    recipes,
    show,
    train,
    evaluate,
    probe,
    bench,
    ask,
    chat,
    caption,
    draw,
    generate,
    match,
    classify,
    embed,
    search,
    serve,
    export,
    compress,
):
    app.command()(_verb)
app.add_typer(index, name="index")


def verbs(group: Any = None, before: str = "") -> dict[str, Any]:
    """Command line words, such as "index build" -> command, for the help page and its tests."""
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
            message = f"chiasm: internal error: {type(error).__name__}: {error}"
            typer.echo(f"{message}\n  do: run `chiasm --debug VERB ...` for the traceback, and report it", err=True)
            sys.exit(1)
        word = "wrong input" if isinstance(error, InputError) else "stopped"
        typer.echo(f"chiasm: {word}: {error}", err=True)
        sys.exit(error.exit_code)


def _at_home(word: str) -> str:
    """Expand the ~ of `--out=~/runs` and of quoted paths; a shell expands it only at the start of a word."""
    name, equals, value = word.partition("=")
    if name.startswith("--") and equals and value.startswith("~"):
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(word) if word.startswith("~/") else word


def _check_sets(words: list[str]) -> None:
    """Refuse a second KEY=VALUE behind one --set, of which typer would say "unexpected extra argument".

    Raises:
        InputError: names it.
    """
    for option, value, word in zip(words, words[1:], words[2:], strict=False):
        if option == "--set" and re.match(r"[a-z_]+(\.\w+)+=", word):
            raise InputError(f"--set {value} {word}", "one KEY=VALUE behind each --set", f"--set {value} --set {word}")


def main() -> None:
    """Entry point of the `chiasm` command."""
    # Long spin waits of OpenMP threads slow down a busy machine: with a second job on two cores, the tiny demo did 0.1
    # steps per second, and 1.8 with a short spin (docs/log.md), which is as fast on an idle machine. It must be set
    # before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    sys.argv[1:] = [_at_home(word) for word in sys.argv[1:]]
    with _errors():
        _check_sets(sys.argv[1:])
        app()
