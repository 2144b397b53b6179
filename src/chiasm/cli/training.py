"""Verbs that make a run: demo, recipes, show, train."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.shared import Json, Set, console, notes, print_measured, print_verdict, say, write_result
from chiasm.cli.suggesting import print_next

if TYPE_CHECKING:
    from chiasm.train.config import RunConfig

RecipeOrData = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a recipe (`chiasm recipes` lists them); or a folder or file of your own, "
        "for the recipe that fits it.",
    ),
]
Data = Annotated[str, typer.Option("--data", help="Folder or file of your own pictures and words.", metavar="DATA")]
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
    _train(_config("demo", "", set_, tiny), out, resume, json_file)


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
    recipe: RecipeOrData,
    data: Data = "",
    set_: Set = None,
    tiny: Tiny = False,
    json_file: Json = None,
) -> None:
    """Print a recipe's every key, the model's size, and how long it will take here.

    Example: chiasm show retrieval --data PHOTOS
    """
    from chiasm.core.config import as_typed, keys, to_dict
    from chiasm.train.estimate import estimate

    config = _config(recipe, data, set_, tiny)
    for key, value in keys(config):
        say(f"{key} = {as_typed(value)}")
    if config.data.source == "files" and not config.data.path:
        say("\nWith --data PATH you also see the model's size and an estimate of time and memory.")
        write_result(json_file, {"recipe": config.recipe, "config": to_dict(config)})
        return
    found = estimate(config, notes())
    say("\n" + found.text())
    write_result(json_file, {"recipe": config.recipe, "config": to_dict(config), "estimate": found.as_dict()})


def train(
    recipe: RecipeOrData = "",
    data: Data = "",
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

    With DATA in the place of a recipe, says which recipes the files can feed and trains the first of them.
    A run that was stopped goes on with `chiasm train --resume --out FOLDER`.

    Example: chiasm train retrieval --data PHOTOS --out runs/photos
    """
    from chiasm.core.config import override
    from chiasm.core.errors import InputError
    from chiasm.train.stages import planned

    if recipe:
        config = _config(recipe, data, set_, tiny)
    elif resume and out and not tiny:
        config = override(planned(out), _assignments(data, set_))
    else:
        raise InputError(
            "no recipe",
            "a recipe, a folder or file to train on, or --resume and --out of a run that was stopped",
            "choose one of `chiasm recipes`, or type `chiasm train DATA`",
        )
    _train(config, out or Path("runs") / config.recipe, resume, json_file)


def _config(word: str, data: str, assignments: list[str] | None, tiny: bool) -> "RunConfig":
    """The config of a recipe, or of the one that is proposed for the files that stand in its place."""
    from chiasm.core.config import override
    from chiasm.core.errors import InputError
    from chiasm.recipes import RECIPES, find_recipe

    if word not in RECIPES and Path(word).expanduser().exists():
        if data:
            raise InputError(f"{word} in the place of a recipe, and --data {data}", "one of them", "drop one")
        word, data = _proposed(word, assignments or []), word
    elif word not in RECIPES and ("/" in word or Path(word).suffix):
        raise InputError(f"{word} does not exist", "a folder or file to train on, or a recipe", "check the path")
    typed = _assignments(data, assignments)
    has_files = any(one.strip().startswith("data.path=") for one in typed)
    return override(find_recipe(word, tiny, files=has_files), typed)


def _assignments(data: str, assignments: list[str] | None) -> list[str]:
    """What `--data` and `--set` say, as assignments."""
    from chiasm.core.errors import InputError

    typed = assignments or []
    if not data:
        return typed
    twice = next((one for one in typed if one.strip().startswith(("data.path=", "data.source="))), "")
    if twice:
        raise InputError(f"--data {data} and --set {twice.strip()}", "one of them", "drop one")
    return [f"data.path={data}", "data.source=files", *typed]


def _proposed(path: str, assignments: list[str]) -> str:
    """The recipe that is trained on files of one's own when none is named; says so, and which others there are."""
    from rich.markup import escape

    from chiasm.core.config import override
    from chiasm.data.config import DataConfig
    from chiasm.recipes.proposing import propose
    from chiasm.train.config import RunConfig

    about_data = [one for one in assignments if one.strip().startswith("data.")]
    found = propose(override(RunConfig(recipe="", data=DataConfig(path=path)), about_data).data)
    first = found.proposals[0].recipe
    notes().print(escape(found.text()), highlight=False, soft_wrap=True)
    notes().print(f"going on with the recipe [bold]{first}[/bold]", highlight=False)
    return first


def _train(config: "RunConfig", out: Path, resume: bool, json_file: Path | None) -> None:
    from chiasm.core.device import environment
    from chiasm.core.errors import Interrupted
    from chiasm.tasks.scoring import scores_as_json
    from chiasm.train.stages import run_stages

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
    print_next(out, tuple(config.tasks))
