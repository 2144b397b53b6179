"""Named runs. A recipe is a function that returns a complete config; its docstring has command, cost and number."""

from collections.abc import Callable

from chiasm.core.errors import InputError, nearest
from chiasm.core.run_config import RunConfig
from chiasm.recipes.demo import demo
from chiasm.recipes.flickr8k_retrieval import flickr8k_retrieval
from chiasm.recipes.sort_of_clevr import sort_of_clevr

RECIPES: dict[str, Callable[..., RunConfig]] = {
    "demo": demo,
    "sort_of_clevr": sort_of_clevr,
    "flickr8k_retrieval": flickr8k_retrieval,
}


def find_recipe(name: str, tiny: bool = False) -> RunConfig:
    """Return the config of a recipe; `tiny` shrinks it to a run of seconds that only shows that it works."""
    if name not in RECIPES:
        raise InputError(
            f"unknown recipe {name!r}{nearest(name, RECIPES)}",
            "one of " + ", ".join(RECIPES),
            "`chiasm recipes` lists them",
        )
    return RECIPES[name](tiny=tiny)
