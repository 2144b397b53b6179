"""The verbs of training: demo, recipes, show, train."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.shared import Json, Set, console, load, notes, print_tables, print_verdict, say, write_result
from chiasm.cli.suggesting import print_next

RecipeOrData = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe (`chiasm recipes` lists them); or a folder or file of your own, "
        "for the recipe that fits it; `show` takes a run too.",
    ),
]
Data = Annotated[str, typer.Option("--data", help="Folder or file of your own images and texts.", metavar="DATA")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Shrink the recipe to a run of seconds, to test that it works.")]


def demo(
    out: Annotated[Path, typer.Option(help="Run folder to create.")] = Path("runs/demo"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume a run that was stopped.")] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train one model on three tasks in minutes, measure it, and write an illustrated report.

    Example: chiasm demo --out runs/demo
    """
    _train("demo", "", out, resume, set_, tiny, json_file)


def recipes() -> None:
    """List the recipes: what each trains, and on what.

    Example: chiasm recipes
    """
    from rich.table import Table

    from chiasm.recipes.table import RECIPES

    table = Table("recipe", "what it does", box=None, pad_edge=False)
    for name, what in RECIPES.summaries().items():
        table.add_row(name, what)
    console().print(table)


def show(
    recipe: RecipeOrData,
    data: Data = "",
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Print all config keys of a recipe, the model's size, and an estimate of time and memory on this machine.

    Of a finished run: its config keys, and the number formats that it is computed in here.

    Example: chiasm show retrieval --data PHOTOS
    """
    from chiasm.core.run_folder import MANIFEST

    if (Path(recipe) / MANIFEST).is_file():
        _show_run(Path(recipe), set_, json_file)
        return
    from chiasm.api.configuring import configure
    from chiasm.api.overrides import as_overrides
    from chiasm.core.config import as_typed, keys, to_dict
    from chiasm.train.estimate import estimate

    config = configure(recipe, data=data, tiny=tiny, overrides=as_overrides(set_ or ()))
    for key, value in keys(config):
        say(f"{key} = {as_typed(value)}")
    if not (config.data.is_generated or config.data.path):
        say("\nWith --data PATH you also see the model's size and an estimate of time and memory.")
        write_result(json_file, {"recipe": config.recipe, "config": to_dict(config)})
        return
    found = estimate(config, notes())
    say("\n" + found.text())
    write_result(json_file, {"recipe": config.recipe, "config": to_dict(config), "estimate": found.as_dict()})


def _show_run(run: Path, set_: list[str] | None, json_file: Path | None) -> None:
    from chiasm.core.config import as_typed, keys, to_dict

    model = load(run, set_)
    config = model.pipeline.config
    for key, value in keys(config):
        say(f"{key} = {as_typed(value)}")
    for line in model.plan.lines():
        say(f"execution of {line}")
    write_result(json_file, {"run": str(run), "config": to_dict(config), "execution": model.plan.as_dict()})


def train(
    recipe: RecipeOrData = "",
    data: Data = "",
    out: Annotated[Path | None, typer.Option(help="Run folder to create; runs/RECIPE if not given.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --out, bit-exactly unless it has a time limit."),
    ] = False,
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Train a recipe into a run folder, then measure it and write its report.

    With DATA instead of a recipe, it lists the recipes that fit the files and trains the first of them.
    `chiasm train --resume --out FOLDER` resumes a run that was stopped.

    Example: chiasm train retrieval --data PHOTOS --out runs/photos
    """
    _train(recipe, data, out, resume, set_, tiny, json_file)


def _train(
    recipe: str, data: str, out: Path | None, resume: bool, set_: list[str] | None, tiny: bool, json_file: Path | None
) -> None:
    from chiasm.api.overrides import as_overrides
    from chiasm.api.showing import measured_tables
    from chiasm.api.training import train as train_run
    from chiasm.core.errors import Interrupted

    try:
        run = train_run(recipe, data=data, out=out, resume=resume, tiny=tiny, overrides=as_overrides(set_ or ()))
    except Interrupted as stop:
        again = shlex.join(["chiasm", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
        raise Interrupted(f"{stop}\n  to go on: {again}") from None
    if run.finished is None:  # only the first of several processes prints
        return
    measured = run.finished.measured
    print_tables(measured_tables(measured), measured.ledger)
    print_verdict(run.finished.verdict, measured.rows())
    write_result(json_file, run.as_dict())
    print_next(run.folder, tuple(run.config.tasks))
