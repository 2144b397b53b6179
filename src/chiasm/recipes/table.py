"""The table of recipes: name -> function that returns a complete config."""

from collections.abc import Callable

from chiasm.core.errors import InputError, nearest
from chiasm.recipes.another_language import another_language
from chiasm.recipes.captions import captions
from chiasm.recipes.classify import classify
from chiasm.recipes.dalle import dalle
from chiasm.recipes.demo import demo
from chiasm.recipes.families import FAMILIES
from chiasm.recipes.flickr8k_captions import flickr8k_captions
from chiasm.recipes.flickr8k_retrieval import flickr8k_retrieval
from chiasm.recipes.labels_and_captions import labels_and_captions
from chiasm.recipes.llava import llava
from chiasm.recipes.nlvr import nlvr
from chiasm.recipes.reranking import reranking
from chiasm.recipes.retrieval import retrieval
from chiasm.recipes.sort_of_clevr import sort_of_clevr
from chiasm.recipes.vqa import vqa
from chiasm.train.config import RunConfig


class Recipes(dict[str, Callable[..., RunConfig]]):
    """Name -> function that returns a complete `RunConfig`. Shown at the prompt, it lists what each recipe does."""

    def __missing__(self, name: str) -> Callable[..., RunConfig]:
        raise InputError(
            f"unknown recipe {name!r}{nearest(name, self)}",
            "one of " + ", ".join(self) + "; or a folder or file that exists, to train on",
            "`chiasm recipes` lists them",
        )

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {what}" for name, what in self.summaries().items())

    def summaries(self) -> dict[str, str]:
        """Name -> the first line of the recipe's docstring: what it trains, and on what."""
        return {name: (recipe.__doc__ or "").strip().splitlines()[0] for name, recipe in self.items()}


OWN_DATA: dict[str, Callable[..., RunConfig]] = {
    "retrieval": retrieval,
    "vqa": vqa,
    "classify": classify,
    "captions": captions,
    "llava": llava,
}
"""Recipes for one's own files, named by the task, the one that is proposed first standing first."""

SCENES_OR_FILES: dict[str, Callable[..., RunConfig]] = {"dalle": dalle} | FAMILIES
"""Recipes that train on generated scenes, and otherwise on files where these are given."""

RECIPES = Recipes(
    OWN_DATA
    | {
        "demo": demo,
        "sort_of_clevr": sort_of_clevr,
        "flickr8k_retrieval": flickr8k_retrieval,
        "flickr8k_captions": flickr8k_captions,
        "another_language": another_language,
        "reranking": reranking,
        "nlvr": nlvr,
        "labels_and_captions": labels_and_captions,
    }
    | SCENES_OR_FILES
)
"""All recipes; `chiasm.recipes` is this table."""


def find_recipe(name: str, tiny: bool = False, files: bool = False) -> RunConfig:
    """Return the config of a recipe.

    Args:
        name: a key of `RECIPES`.
        tiny: shrink it to a run of seconds that only shows that it works.
        files: whether the data are the user's files; without them a recipe of `SCENES_OR_FILES` trains on scenes.
    """
    recipe = RECIPES[name]
    return recipe(tiny=tiny, files=files) if name in SCENES_OR_FILES else recipe(tiny=tiny)
