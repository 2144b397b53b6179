"""Overrides from Python and from the command line become the same texts, and come back as the same values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.api.overrides import as_overrides, assignments, check_settable
from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.train.config import RunConfig

CONFIG = RunConfig(recipe="")
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)


@given(
    steps=st.integers(1, 10**9),
    lr=st.floats(1e-9, 10),
    prompts=st.lists(WORDS, min_size=1, max_size=3),
    interpolate=st.booleans(),
)
def test_values_arrive_as_they_were_given(steps: int, lr: float, prompts: list[str], interpolate: bool) -> None:
    """Guards against numbers that lose digits, and lists that are cut at the commas of their items."""
    typed = assignments({"train.lr": lr, "data.label_prompts": prompts}, {"train__steps": steps, "seed": 3})
    made = override(CONFIG, [*typed, *assignments(None, {"train__interpolate": interpolate})])
    assert (made.train.lr, made.train.steps, made.train.interpolate, made.seed) == (lr, steps, interpolate, 3)
    assert made.data.label_prompts == tuple(prompts)


def test_paths_texts_and_keywords() -> None:
    """Guards against a path with the name of its class, and against a keyword that does not come last."""
    typed = assignments({"data.path": Path("a") / "b", "train.steps": 1}, {"train__steps": 2})
    assert typed == ["data.path=a/b", "train.steps=2"]
    assert assignments(None, {"data__languages": "en,zh"}) == ["data.languages=en,zh"]
    assert assignments(None, {"x": None, "y": True}) == ["x=null", "y=true"]


@pytest.mark.parametrize("value", [{1}, object(), float("nan"), float("inf"), b"a"])
def test_values_that_no_key_can_have_are_refused(value: object) -> None:
    """Guards against "<object object at 0x7f>" in a config."""
    with pytest.raises(InputError, match=f"of type {type(value).__name__}"):
        assignments(None, {"train__steps": value})


def test_texts_of_the_command_line() -> None:
    """Guards against spaces that become part of a key, a value cut at its second "=", and a first one that wins."""
    found = as_overrides(["train.steps = 5", "data.path=a=b", "train.steps=6"])
    assert list(found.items()) == [("data.path", "a=b"), ("train.steps", "6")]
    with pytest.raises(InputError, match="add the = and a value"):
        as_overrides(["train.steps"])


def test_only_what_can_still_be_changed() -> None:
    """Guards against a trained model whose config says another size than its weights have."""
    check_settable(["data.path=a", "seed=1"], ("data.", "seed="))
    for typed in ("model.dim=3", "seeds=1", "train.steps=1"):
        with pytest.raises(InputError, match="the model is what it is"):
            check_settable(["data.path=a", typed], ("data.", "seed="))
