"""A recipe or data files, with overrides -> one complete config."""

from collections.abc import Sequence
from os import fspath
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from chiasm.api.overrides import Overrides, Place, assignments
from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.log import stderr_console
from chiasm.data.files import FilesConfig
from chiasm.recipes.proposing import propose
from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.train.config import RunConfig
from chiasm.train.estimate import Estimate
from chiasm.train.estimate import estimate as estimate_of
from chiasm.train.stages import also_for_stages, planned


def configure(
    recipe: Place | RunConfig,
    *,
    data: Place = "",
    tiny: bool = False,
    overrides: Overrides | None = None,
    **keys: object,
) -> RunConfig:
    """Return the complete config that `train` would use with the same arguments.

    Example:
        >>> config = chiasm.configure("retrieval", data="PHOTOS", train__lr=3e-4)
        >>> config.train.lr, config.data.path
        (0.0003, 'PHOTOS')

    Args:
        recipe: name of a recipe (`chiasm.recipes` lists them); or your own folder or file, which selects a fitting
            recipe; or a config to change.
        data: folder or file of your own images and texts.
        tiny: shrink the recipe to a run of seconds, to test that it works.
        overrides: config keys with dots -> values, such as `{"train.steps": 50}`.
        **keys: the same with two underscores for each dot, such as `train__steps=50`.

    Raises:
        InputError: an unknown recipe, key or value; the message names the nearest one.
    """
    return config_from(recipe, fspath(data), assignments(overrides, keys), tiny, stderr_console())


def estimate(
    recipe: Place | RunConfig,
    *,
    data: Place = "",
    tiny: bool = False,
    overrides: Overrides | None = None,
    **keys: object,
) -> Estimate:
    """Estimate the size, time and memory of a run on this machine, by timing a short sample of each part.

    Example:
        >>> chiasm.estimate("demo", tiny=True).steps
        6

    Arguments and errors are those of `configure`.
    """
    return estimate_of(configure(recipe, data=data, tiny=tiny, overrides=overrides, **keys), stderr_console())


def config_from(recipe: Place | RunConfig, data: str, typed: Sequence[str], tiny: bool, console: Console) -> RunConfig:
    """The config of a recipe, or of the recipe proposed for data files.

    Args:
        recipe: a name, a path or a config.
        data: path of files; "" leaves those of the recipe.
        typed: `key=value` texts.
        tiny: shrink the recipe.
        console: console for the message about the proposed recipe.

    Raises:
        InputError: an unknown recipe, path, key or value; or data given twice.
    """
    if isinstance(recipe, RunConfig):
        if tiny:
            raise InputError("a config, and tiny", "one of them", 'shrink a recipe: configure("demo", tiny=True)')
        return override(recipe, also_for_stages(recipe, with_data(data, typed)))
    word = fspath(recipe)
    if word not in RECIPES and Path(word).expanduser().exists():
        if data:
            raise InputError(f"{word} in the place of a recipe, and --data {data}", "one of them", "drop one")
        word, data = _proposed(word, typed, console), word
    elif word not in RECIPES and ("/" in word or Path(word).suffix):
        raise InputError(f"{word} does not exist", "a folder or file to train on, or a recipe", "check the path")
    typed = with_data(data, typed)
    has_files = any(one.strip().startswith("data.path=") for one in typed)
    config = find_recipe(word, tiny, files=has_files)
    return override(config, also_for_stages(config, typed))


def plan(
    recipe: Place | RunConfig,
    data: str,
    typed: Sequence[str],
    tiny: bool,
    out: Path | None,
    resume: bool,
    console: Console,
) -> tuple[RunConfig, Path]:
    """The config and folder of a run; without a recipe, those of the stopped run to resume.

    Args:
        recipe: as of `config_from`; "" is no recipe.
        data: path of files.
        typed: `key=value` texts.
        tiny: shrink the recipe.
        out: the run folder; None means runs/RECIPE.
        resume: resume the run in `out`.
        console: console for the message about the proposed recipe.

    Raises:
        InputError: as `config_from`; or neither a recipe nor a run to resume is given.
    """
    if recipe:
        config = config_from(recipe, data, typed, tiny, console)
    elif resume and out and not tiny:
        config = override(planned(out), with_data(data, typed))
    else:
        raise InputError(
            "no recipe",
            "a recipe, a folder or file to train on, or --resume and --out of a run that was stopped",
            "choose one of `chiasm recipes`, or type `chiasm train DATA`",
        )
    return config, out or Path("runs") / config.recipe


def with_data(data: str, typed: Sequence[str]) -> list[str]:
    """The assignments, preceded by those that `--data` implies.

    Raises:
        InputError: the data are given twice.
    """
    if not data:
        return list(typed)
    twice = next((one for one in typed if one.strip().startswith(("data.path=", "data.source="))), "")
    if twice:
        raise InputError(f"--data {data} and --set {twice.strip()}", "one of them", "drop one")
    return ["data.source=files", f"data.path={data}", *typed]


def _proposed(path: str, typed: Sequence[str], console: Console) -> str:
    """Name of the first recipe that fits the user's files; prints it and the other fitting recipes."""
    about_data = [one for one in typed if one.strip().startswith("data.")]
    found = propose(override(RunConfig(recipe="", data=FilesConfig(path=path)), about_data).data)
    first = found.proposals[0].recipe
    console.print(escape(found.text()), highlight=False, soft_wrap=True)
    console.print(f"going on with the recipe [bold]{first}[/bold]", highlight=False)
    return first
