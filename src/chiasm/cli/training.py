"""Verbs that make a run: demo, recipes, show, train."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.shared import Json, Set, console, notes, print_measured, print_verdict, say, write_result

if TYPE_CHECKING:
    from chiasm.core.run_config import RunConfig

Tiny = Annotated[bool, typer.Option("--tiny", help="Shrink the recipe to seconds; only shows that it works.")]


def demo(
    out: Annotated[Path, typer.Option(help="Run folder to create.")] = Path("runs/demo"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train one model on three tasks in minutes, measure it, and write a report with pictures.

    Example: chiasm demo --out runs/demo
    """
    _train("demo", out, resume, set_, tiny, json_file)
    say(
        f"\nTry it on a picture of the report, or draw your own:\n"
        f"  chiasm ask {out} {out}/example.png 'how many circles are there?'\n"
        f"  chiasm caption {out} {out}/example.png\n"
    )


def recipes() -> None:
    """List the recipes: what each trains, and on what.

    Example: chiasm recipes
    """
    from rich.table import Table

    from chiasm.recipes import RECIPES

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        table.add_row(name, (recipe.__doc__ or "").strip().splitlines()[0])
    console().print(table)


def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Print a recipe's every key, the model's size, and how long it will take here.

    Example: chiasm show demo --set train.batch_size=32
    """
    from chiasm.core.config import as_typed, keys, to_dict
    from chiasm.train.estimate import estimate

    config = _config(recipe, set_, tiny)
    for key, value in keys(config):
        say(f"{key} = {as_typed(value)}")
    if config.data.source == "files" and not config.data.path:
        say("\nSet data.path to see the model's size and an estimate of time and memory.")
        write_result(json_file, {"recipe": recipe, "config": to_dict(config)})
        return
    found = estimate(config, notes())
    say("\n" + found.text())
    write_result(json_file, {"recipe": recipe, "config": to_dict(config), "estimate": found.as_dict()})


def train(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe; `chiasm recipes` lists them. None with --resume.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder to create; runs/RECIPE if not given.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, bit for bit unless a time limit ends it."),
    ] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train a recipe into a run folder, then measure it and write its report.

    A run that was stopped goes on with `chiasm train --resume --out FOLDER`.

    Example: chiasm train flickr8k_retrieval --set data.path=PHOTOS --out runs/photos
    """
    from chiasm.core.errors import InputError

    if not recipe and (tiny or not (resume and out)):
        raise InputError(
            "no recipe", "a recipe, or --resume and --out of a run that was stopped", "choose one of `chiasm recipes`"
        )
    _train(recipe, out or Path("runs") / recipe, resume, set_, tiny, json_file)


def _config(recipe: str, assignments: list[str] | None, tiny: bool) -> "RunConfig":
    from chiasm.core.config import override
    from chiasm.recipes import find_recipe

    typed = assignments or []
    has_files = any(one.strip().startswith("data.path=") for one in typed)
    return override(find_recipe(recipe, tiny, files=has_files), typed)


def _train(
    recipe: str, out: Path, resume: bool, assignments: list[str] | None, tiny: bool, json_file: Path | None
) -> None:
    from chiasm.core.config import override
    from chiasm.core.device import environment
    from chiasm.core.errors import Interrupted
    from chiasm.evaluate.outcome import scores_as_json
    from chiasm.train.stages import planned, run_stages

    config = _config(recipe, assignments, tiny) if recipe else override(planned(out), assignments or [])
    try:
        finished = run_stages(config, out, resume, notes())
    except Interrupted as stop:
        again = shlex.join(["chiasm", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
        raise Interrupted(f"{stop}\n  to go on: {again}") from None
    if finished is None:  # one of several processes, and not the one that talks
        return
    print_measured(finished.measured)
    print_verdict(finished.verdict, finished.measured.rows())
    scores = scores_as_json(finished.measured.outcome, finished.measured.blind)
    header = {"run": str(out), "data": config.data.path or config.data.source, "split": finished.measured.split}
    made = {"guard": finished.guard.as_dict(), "verdict": finished.verdict.as_dict()}
    write_result(json_file, {**header, **scores, **made, "environment": environment()})
