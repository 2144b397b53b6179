"""The config tree: to and from JSON, and `key=value` words that can only become the annotated type."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.config import OPEN, SYNONYMS, from_dict, keys, override, to_dict
from chiasm.core.errors import InputError
from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A section with every kind of field."""

    name: str = "plain"
    rate: float = 0.5
    count: int = 3
    is_on: bool = False
    mode: Literal["slow", "fast"] = "slow"
    limit: int | None = None
    share: float | None = 0.25
    sizes: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("en",)
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """A root with a required field, a section and a table of sections."""

    title: str
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)
    more: dict[str, Inner] = field(default_factory=dict, metadata=OPEN)


ROOT = Outer(title="root", parts={"first": Inner(), "second": Inner(count=9)})

texts = st.text(max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(
    Inner,
    name=texts,
    rate=finite,
    count=st.integers(),
    is_on=st.booleans(),
    mode=st.sampled_from(["slow", "fast"]),
    limit=st.none() | st.integers(),
    share=st.none() | finite,
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    words=st.lists(texts, max_size=3).map(tuple),
    weights=st.dictionaries(texts, finite, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.builds(Outer, title=texts, inner=inners, parts=st.dictionaries(texts, inners, max_size=2)))
def test_a_tree_survives_json(tree: Outer) -> None:
    """Guards against tuples that come back as lists, None as a word, and tables of sections as plain dicts."""
    assert from_dict(Outer, json.loads(json.dumps(to_dict(tree)))) == tree


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("tiny", [False, True])
def test_every_recipe_survives_json(name: str, tiny: bool) -> None:
    """Guards against a run folder whose config.json makes another model than the one trained."""
    config = find_recipe(name, tiny)
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("inner.name=a=b", Inner(name="a=b")),
        ("inner.name=7", Inner(name="7")),
        (" inner.name = spaced ", Inner(name="spaced")),
        ("inner.rate=2", Inner(rate=2.0)),
        ("inner.rate=1e-3", Inner(rate=0.001)),
        ("inner.count=-4", Inner(count=-4)),
        ("inner.is_on=true", Inner(is_on=True)),
        ("inner.mode=fast", Inner(mode="fast")),
        ("inner.limit=8", Inner(limit=8)),
        ("inner.share=none", Inner(share=None)),
        ("inner.share=null", Inner(share=None)),
        ("inner.sizes=4,5, 6", Inner(sizes=(4, 5, 6))),
        ("inner.sizes=[4, 5]", Inner(sizes=(4, 5))),
        ("inner.sizes=7", Inner(sizes=(7,))),
        ("inner.sizes=", Inner(sizes=())),
        ("inner.words=en,zh", Inner(words=("en", "zh"))),
        ('inner.words=["a,b"]', Inner(words=("a,b",))),
        ("inner.weights.a=3.5", Inner(weights={"a": 3.5})),
    ],
)
def test_a_word_becomes_the_fields_type(word: str, expected: Inner) -> None:
    """Guards against text left as text: "7" in a name stays a word, in a count it is a number."""
    changed = override(ROOT, [word])
    assert changed == replace(ROOT, inner=expected)
    assert type(changed.inner.rate) is float


def test_a_key_reaches_into_a_table_and_changes_nothing_else() -> None:
    """Guards against `tasks.vqa.weight` replacing the whole table, and against a changed original."""
    config = find_recipe("demo")
    changed = override(config, ["tasks.vqa.weight=2", "tasks.vqa.weight=3", "model.image.channels=8,16"])
    assert changed.tasks == {**config.tasks, "vqa": VqaConfig(weight=3.0)}
    assert changed.model.image.channels == (8, 16)
    assert config.tasks["vqa"].weight == 1.0


def test_an_open_table_grows() -> None:
    """Guards against a second task, or a second set of files, that no command line can name."""
    changed = override(ROOT, ["more.new.count=3", "more.new.name=x", "more.other.count=1"])
    assert changed == replace(ROOT, more={"new": Inner(count=3, name="x"), "other": Inner(count=1)})
    assert ROOT.more == {}
    staged = override(find_recipe("albef"), ["stages.pre_training.tasks.captioning.weight=0.5"])
    assert staged.stages["pre_training"].tasks["captioning"] == CaptioningConfig(weight=0.5)


def test_keys_lists_what_can_be_set() -> None:
    """Guards against a key shown by `chiasm show` that `--set` does not know: each is set to its own value."""
    config = find_recipe("demo")
    listed = dict(keys(config))
    assert {"seed", "model.image.size_px", "tasks.captioning.weight"} <= set(listed)
    words = [f"{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in listed.items()]
    assert override(config, words) == config


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("inner.rat=1", "did you mean 'inner.rate'"),
        ("iner.rate=1", "did you mean 'inner.rate'"),
        ("parts.frist.count=1", "did you mean 'parts.first.count'"),
        ("inner.rate", "key=value"),
        ("inner=3", "is a section"),
        ("parts.first=3", "is a section"),
        ("more.new=3", "unknown config key 'more.new'"),
        ("more..count=3", "unknown config key 'more..count'"),
        ("more.new.cuont=3", "did you mean 'more.new.count'"),
        ("inner.rate.x=3", "below a plain value"),
        ("inner..rate=3", "unknown config key"),
        ("=3", "unknown config key"),
        ("inner.mode=fsat", "did you mean 'fast'"),
        ("inner.count=1.5", "inner.count is 1.5"),
        ("inner.count=true", "inner.count is True"),
        ("inner.is_on=1", "inner.is_on is 1"),
        ("inner.rate=quick", "inner.rate is 'quick'"),
        ("inner.limit=x", "inner.limit is 'x'"),
        ("inner.sizes=1,b", "inner.sizes is 'b'"),
        ("inner.sizes=[1", "inner.sizes is '[1'"),
        ("inner.rate=NaN", "inner.rate is nan"),
        ("inner.rate=-Infinity", "inner.rate is -inf"),
        ("inner.rate=1e999", "inner.rate is inf"),
        ("inner.share=NaN", "inner.share is nan"),
        ("inner.count=" + "9" * 5000, "inner.count is '9999"),
        ("inner.rate=1" + "0" * 400, "inner.rate is 1000"),
        ("inner.count=" + "[" * 100_000, "inner.count is '[[["),
    ],
)
def test_a_wrong_word_is_an_error_that_names_the_key(word: str, part: str) -> None:
    """Guards against a bare traceback, a silently kept default, and numbers that JSON cannot hold."""
    with pytest.raises(InputError) as caught:
        override(ROOT, [word])
    assert part in str(caught.value)
    assert caught.value.exit_code == 2 and caught.value.allowed and caught.value.do


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"titel": "x"}, "did you mean 'title'"),
        ({}, "'title' is missing in config"),
        ({"title": 3}, "config.title is 3"),
        ({"title": "x", "inner": 3}, "config.inner is 3"),
        ({"title": "x", "inner": {"sizes": "12"}}, "config.inner.sizes is '12'"),
        ({"title": "x", "inner": {"sizes": [1, None]}}, "config.inner.sizes is None"),
        ({"title": "x", "inner": {"mode": []}}, "config.inner.mode is []"),
        ({"title": "x", "parts": []}, "config.parts is []"),
        ({"title": "x", "parts": {"first": {"cuont": 1}}}, "'cuont' in config.parts.first (did you mean 'count'?)"),
        ([], "config is []"),
        (None, "config is None"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(values: Any, part: str) -> None:
    """Guards against a damaged config.json that ends in a TypeError of a constructor."""
    with pytest.raises(InputError) as caught:
        from_dict(Outer, values)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("train.learning_rate=0.1", "train.lr"),
        ("learning_rate=0.1", "train.lr"),
        ("model.lr=0.1", "train.lr"),
        ("batch_size=8", "train.batch_size"),
        ("train.num_epochs=3", "train.epochs"),
        ("model.image_size=288", "model.image.size_px"),
        ("data.language=vi", "data.languages"),
        ("model.num_heads=4", "model.heads"),
        ("trian.steps=3", "train.steps"),
    ],
)
def test_a_key_is_found_by_its_last_word_and_its_synonyms(word: str, meant: str) -> None:
    """Guards against `train.learning_rate`, which spelling alone takes for `train.label_smoothing` or nothing."""
    with pytest.raises(InputError) as caught:
        override(RunConfig(recipe="mine"), [word])
    assert caught.value.do.startswith(f"--set {meant}={word.partition('=')[2]}, ")


def test_a_synonym_stands_for_one_key_that_exists() -> None:
    """Guards against a table that sends people to a key of yesterday."""
    config = override(RunConfig(recipe="mine"), ["tasks.vqa.weight=1"])
    last = {key.rpartition(".")[2] for key, _ in keys(config)}
    assert set(SYNONYMS) <= last, set(SYNONYMS) - last
    others = [one for some in SYNONYMS.values() for one in some]
    assert len(others) == len(set(others)) and not set(others) & set(SYNONYMS)
