"""A recipe, or files in its place, with data and overrides -> one complete config."""

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
from chiasm.train.stages import planned


def configure(
    recipe: Place | RunConfig,
    *,
    data: Place = "",
    tiny: bool = False,
    overrides: Overrides | None = None,
    **keys: object,
) -> RunConfig:
    """Return the config that `train` with the same arguments would run, complete.

    Example:
        >>> config = chiasm.configure("retrieval", data="PHOTOS", train__lr=3e-4)
        >>> config.train.lr, config.data.path
        (0.0003, 'PHOTOS')

    Args:
        recipe: name of a recipe (`chiasm.recipes` lists them); or a folder or file of your own, for the recipe that
            fits it; or a config that is changed.
        data: folder or file of your own images and words.
        tiny: shrink the recipe to seconds, which only shows that it works.
        overrides: config keys with dots -> values, such as `{"train.steps": 50}`.
        **keys: the same with two underscores in the place of a dot, such as `train__steps=50`.

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
    """Return how large a run is and how long it takes on this machine, measured by doing a little of each part.

    Example:
        >>> chiasm.estimate("demo", tiny=True).steps
        6

    Takes the arguments of `configure`, and raises what it raises.
    """
    return estimate_of(configure(recipe, data=data, tiny=tiny, overrides=overrides, **keys), stderr_console())


def config_from(recipe: Place | RunConfig, data: str, typed: Sequence[str], tiny: bool, console: Console) -> RunConfig:
    """The config of a recipe, or of the one that is proposed for the files that stand in its place.

    Args:
        recipe: a name, a path or a config.
        data: path of files; "" leaves those of the recipe.
        typed: `key=value` texts.
        tiny: shrink the recipe.
        console: where it is said which recipe is proposed.

    Raises:
        InputError: an unknown recipe, path, key or value; or files named twice.
    """
    if isinstance(recipe, RunConfig):
        if tiny:
            raise InputError("a config, and tiny", "one of them", 'shrink a recipe: configure("demo", tiny=True)')
        return override(recipe, with_data(data, typed))
    word = fspath(recipe)
    if word not in RECIPES and Path(word).expanduser().exists():
        if data:
            raise InputError(f"{word} in the place of a recipe, and --data {data}", "one of them", "drop one")
        word, data = _proposed(word, typed, console), word
    elif word not in RECIPES and ("/" in word or Path(word).suffix):
        raise InputError(f"{word} does not exist", "a folder or file to train on, or a recipe", "check the path")
    typed = with_data(data, typed)
    has_files = any(one.strip().startswith("data.path=") for one in typed)
    return override(find_recipe(word, tiny, files=has_files), typed)


def plan(
    recipe: Place | RunConfig,
    data: str,
    typed: Sequence[str],
    tiny: bool,
    out: Path | None,
    resume: bool,
    console: Console,
) -> tuple[RunConfig, Path]:
    """The config of a run and its folder; without a recipe, those of a run that was stopped.

    Args:
        recipe: as of `config_from`; "" is no recipe.
        data: path of files.
        typed: `key=value` texts.
        tiny: shrink the recipe.
        out: the run folder; None names it after the recipe, below runs/.
        resume: go on with the run in `out`.
        console: where it is said which recipe is proposed.

    Raises:
        InputError: as `config_from`; or nothing says what to train.
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
    """Assignments with those that `--data` stands for in front.

    Raises:
        InputError: the data are named twice.
    """
    if not data:
        return list(typed)
    twice = next((one for one in typed if one.strip().startswith(("data.path=", "data.source="))), "")
    if twice:
        raise InputError(f"--data {data} and --set {twice.strip()}", "one of them", "drop one")
    return ["data.source=files", f"data.path={data}", *typed]


def _proposed(path: str, typed: Sequence[str], console: Console) -> str:
    """The recipe that is trained on files of one's own when none is named; says so, and which others there are."""
    about_data = [one for one in typed if one.strip().startswith("data.")]
    found = propose(override(RunConfig(recipe="", data=FilesConfig(path=path)), about_data).data)
    first = found.proposals[0].recipe
    console.print(escape(found.text()), highlight=False, soft_wrap=True)
    console.print(f"going on with the recipe [bold]{first}[/bold]", highlight=False)
    return first
