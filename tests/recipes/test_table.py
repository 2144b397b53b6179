"""The table of recipes is useful at the prompt, and refuses unknown names with the nearest one."""

import importlib
import pkgutil

import pytest

import chiasm
from chiasm.core.errors import InputError
from chiasm.recipes.table import OWN_DATA, RECIPES, SCENES_OR_FILES, find_recipe


def test_recipes_are_useful_at_the_prompt() -> None:
    """Guards against a list of memory addresses."""
    assert chiasm.recipes is RECIPES
    lines = repr(RECIPES).splitlines()
    assert len(lines) == len(RECIPES)
    for line, (name, recipe) in zip(lines, RECIPES.items(), strict=True):
        assert line.startswith(name) and line.endswith((recipe.__doc__ or "").strip().splitlines()[0])


def test_unknown_names_are_refused_where_one_is_needed() -> None:
    """Guards against a KeyError without a word, and against a look-up that may fail and does not say None."""
    with pytest.raises(InputError, match="did you mean 'retrieval'"):
        RECIPES["retrival"]
    with pytest.raises(InputError, match="did you mean 'retrieval'"):
        find_recipe("retrival")
    assert "nothing" not in RECIPES and RECIPES.get("nothing") is None


def test_recipes_of_both_take_files_and_others_do_not() -> None:
    """Guards against a recipe that learns on scenes where files are given."""
    for name in RECIPES:
        assert find_recipe(name, files=True) == (
            SCENES_OR_FILES[name](files=True) if name in SCENES_OR_FILES else RECIPES[name]()
        )
    assert all(find_recipe(name).data.source == "files" for name in OWN_DATA)


def test_every_recipe_file_is_in_the_table() -> None:
    """Guards against a recipe that is written and cannot be named: a file of recipes/ with a function of its name."""
    found = {}
    for module in pkgutil.walk_packages(importlib.import_module("chiasm.recipes").__path__, "chiasm.recipes."):
        name = module.name.rpartition(".")[2]
        function = getattr(importlib.import_module(module.name), name, None)
        if callable(function) and "Command: chiasm " in (function.__doc__ or ""):
            found[name] = function
    assert found == dict(RECIPES)
