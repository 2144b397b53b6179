"""The house knows no task by name, and no config accepts a key that means nothing."""

import ast
import dataclasses
from pathlib import Path

import pytest

from chiasm.core.config import keys, override
from chiasm.core.errors import InputError
from chiasm.data.opening import SOURCES
from chiasm.models.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from chiasm.tasks import TASKS
from chiasm.train.config import RunConfig

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "chiasm"
ROOMS = ("evaluate", "pipeline", "report", "train", "models", "data", "objectives", "metrics", "core")
TASK_MODULES = {task.__module__ for task in TASKS.values()}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_no_task(room: str) -> None:
    """Guards against an import of one task, or its name as a word, where any task should do."""
    wrong = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in TASK_MODULES:
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} imports {node.module}")
            is_word = isinstance(node, ast.Constant) and node.value in TASKS
            if is_word and room not in ("objectives", "metrics"):  # a term of a loss may be called as its task is
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} says {node.value!r}")
    assert not wrong, "\n".join(wrong)


def own_keys(cls: type) -> set[str]:
    return {one.name for one in dataclasses.fields(cls)}


def every_pair(classes: dict[str, type]) -> list[tuple[str, str, bool]]:
    """Each kind with each key that any kind has, and whether the key is its own."""
    every = sorted({key for cls in classes.values() for key in own_keys(cls)})
    return [(kind, key, key in own_keys(cls)) for kind, cls in classes.items() for key in every]


SECTIONS = {
    "tasks": {name: task.Config for name, task in TASKS.items()},
    "model.image": dict(IMAGE_ENCODERS),
    "model.text": dict(TEXT_ENCODERS),
    "data": {name: source.config for name, source in SOURCES.items()},
}
PAIRS = [(section, *pair) for section, classes in SECTIONS.items() for pair in every_pair(classes)]


@pytest.mark.parametrize(
    ("section", "kind", "key", "is_own"), PAIRS, ids=[f"{place}.{kind}.{key}" for place, kind, key, _ in PAIRS]
)
def test_a_key_is_accepted_where_it_means_something(section: str, kind: str, key: str, is_own: bool) -> None:
    """Guards against `tasks.vqa.hard_negatives` and `data.symmetries` on scenes, which nothing reads."""
    root = RunConfig(recipe="mine")
    if section == "tasks":
        root = override(root, [f"tasks.{kind}.weight=1"])
        place = f"tasks.{kind}"
    else:
        decides = "source" if section == "data" else "kind"
        root = override(root, [f"{section}.{decides}={kind}"])
        place = section
    known = {name.removeprefix(f"{place}.").partition(".")[0] for name, _ in keys(root) if name.startswith(f"{place}.")}
    if is_own:  # an empty table has no key to print
        assert key in known or getattr(_section(root, place), key) == {}
        return
    assert key not in known
    with pytest.raises(InputError, match="means something for") as caught:
        override(root, [f"{place}.{key}=1"])
    assert caught.value.allowed.startswith(f"one of {place}.")


def _section(root: object, place: str) -> object:
    found = root
    for name in place.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)  # type: ignore[index]
    return found
