"""Named runs. A recipe is a function that returns a complete config; its docstring has command, cost and number."""

from collections.abc import Callable

from chiasm.core.errors import InputError, nearest
from chiasm.recipes.another_language import another_language
from chiasm.recipes.captions import captions
from chiasm.recipes.classify import classify
from chiasm.recipes.demo import demo
from chiasm.recipes.families import FAMILIES
from chiasm.recipes.flickr8k_captions import flickr8k_captions
from chiasm.recipes.flickr8k_retrieval import flickr8k_retrieval
from chiasm.recipes.labels_and_captions import labels_and_captions
from chiasm.recipes.nlvr import nlvr
from chiasm.recipes.reranking import reranking
from chiasm.recipes.retrieval import retrieval
from chiasm.recipes.sort_of_clevr import sort_of_clevr
from chiasm.recipes.vqa import vqa
from chiasm.train.config import RunConfig

OWN_DATA: dict[str, Callable[..., RunConfig]] = {
    "retrieval": retrieval,
    "vqa": vqa,
    "classify": classify,
    "captions": captions,
}
"""Recipes for one's own files, named by the task, the one that is proposed first standing first."""

RECIPES: dict[str, Callable[..., RunConfig]] = {
    **OWN_DATA,
    "demo": demo,
    "sort_of_clevr": sort_of_clevr,
    "flickr8k_retrieval": flickr8k_retrieval,
    "flickr8k_captions": flickr8k_captions,
    "another_language": another_language,
    "reranking": reranking,
    "nlvr": nlvr,
    "labels_and_captions": labels_and_captions,
    **FAMILIES,
}


def find_recipe(name: str, tiny: bool = False, files: bool = False) -> RunConfig:
    """Return the config of a recipe.

    Args:
        name: a key of `RECIPES`.
        tiny: shrink it to a run of seconds that only shows that it works.
        files: the data are files of one's own; a family then starts from packaged towers, and else learns on scenes.
    """
    if name not in RECIPES:
        raise InputError(
            f"unknown recipe {name!r}{nearest(name, RECIPES)}",
            "one of " + ", ".join(RECIPES) + "; or a folder or file that exists, to train on",
            "`chiasm recipes` lists them",
        )
    return FAMILIES[name](tiny=tiny, files=files) if name in FAMILIES else RECIPES[name](tiny=tiny)
