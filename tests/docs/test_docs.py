"""What is written about the code agrees with the code."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import chiasm
from chiasm.cli import verbs
from chiasm.core.config import from_dict, keys, override, to_dict
from chiasm.core.errors import InputError
from chiasm.recipes.table import RECIPES, find_recipe
from chiasm.train.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "chiasm").rglob("*.py"))
TEXTS = [
    *SOURCES,
    *(p for top in ("tests", "docs", "benchmarks", "examples") for p in sorted((ROOT / top).rglob("*.py"))),
]
TEXTS += sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
place = importlib.util.spec_from_file_location("make_help", ROOT / "docs" / "make_help.py")
assert place is not None and place.loader is not None
make_help = importlib.util.module_from_spec(place)
place.loader.exec_module(make_help)
VERBS = verbs()
MAX_FILE, MAX_FUNCTION = 400, 60
PLACEHOLDERS = ("RECIPE", "DATA", "PHOTOS", "CLASSES", "QUESTIONS", "RUN")
"""Words that stand for a recipe, or for files or a run in its place."""


def test_help_page_is_the_help() -> None:
    """Guards against a page that describes yesterday's options; `make docs` writes it anew."""
    page = (ROOT / "docs" / "help.md").read_text(encoding="utf-8")
    assert page == make_help.text()
    for name, command in VERBS.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            named = parameter.metavar or parameter.name.upper()
            shown = parameter.opts[0] if parameter.param_type_name == "option" else named
            assert parameter.name == "help" or f"`{shown}" in section, (name, parameter.name)


def commands_of(text: str) -> list[list[str]]:
    """The lines of fenced blocks that call `chiasm`, continued lines joined, as words."""
    found = []
    for block in re.findall(r"```(?:bash|sh|console|shell)\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            if words and words[0] in ("chiasm", ".venv/bin/chiasm"):
                found.append(words[1:])
    return found


def assert_understood(words: list[str]) -> None:
    """The verb and its options exist, required arguments are there, and every key that is set exists."""
    if words and words[0] == "--debug":
        words = words[1:]
    if words in (["--help"], []):
        return
    count = 2 if " ".join(words[:2]) in VERBS else 1
    verb, rest = " ".join(words[:count]), words[count:]
    assert verb in VERBS, f"no verb {verb!r}"
    if rest == ["--help"]:
        return
    context = VERBS[verb].make_context(verb, list(rest))
    recipe = context.params.get("recipe", "demo" if verb == "demo" else None)
    if recipe in RECIPES:
        assignments = context.params.get("set_") or []
        has_files = bool(context.params.get("data")) or any(one.startswith("data.path=") for one in assignments)
        override(find_recipe(recipe, bool(context.params.get("tiny")), has_files), assignments)
    else:
        assert recipe is None or recipe in PLACEHOLDERS, f"no recipe {recipe!r}"


def test_commands_in_the_texts_can_be_typed() -> None:
    """Guards against a first page whose first command fails."""
    for page in ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))):
        for words in commands_of((ROOT / page).read_text(encoding="utf-8")):
            assert_understood(words)
    assert len(commands_of((ROOT / "docs" / "help.md").read_text(encoding="utf-8"))) == len(VERBS)
    for recipe in RECIPES.values():
        lines = [line.strip() for line in (recipe.__doc__ or "").splitlines()]
        (command,) = [line.removeprefix("Command: ") for line in lines if line.startswith("Command: chiasm")]
        assert_understood(shlex.split(command)[1:])


@pytest.mark.parametrize(
    "line", ["chiasm shwo demo", "chiasm show demo --sett a=1", "chiasm ask run a.png", "chiasm show dmeo"]
)
def test_commands_that_cannot_be_typed_are_seen(line: str) -> None:
    """Guards the guard: a check that understands everything sees nothing."""
    (words,) = commands_of(f"```bash\n{line} # a remark\n```")
    with pytest.raises((AssertionError, typer.BadParameter.__base__)):
        assert_understood(words)
    with pytest.raises(InputError):
        assert_understood(["show", "demo", "--set", "train.step=1"])


def test_every_recipe_is_complete() -> None:
    """Guards against a recipe that fails when it is started, or whose run folder cannot be read back."""
    for name in RECIPES:
        for tiny, files in ((False, False), (True, False), (False, True), (True, True)):
            config = find_recipe(name, tiny, files)
            assert config.recipe == name
            if config.data.source == "files":
                config = override(config, ["data.path=somewhere"])
            config.check()
            assert from_dict(RunConfig, to_dict(config)) == config
            assert tiny is False or config.train.steps <= 10
            assert all(re.sub(r"^stages\.\w+\.", "", key).count(".") <= 3 for key, _ in keys(config))


def test_public_names_are_there() -> None:
    """Guards against a name in `__all__` that cannot be imported, and a door that offers what it does not say."""
    assert len(chiasm.__all__) >= 4
    for name in chiasm.__all__:
        assert getattr(chiasm, name).__doc__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        chiasm.nothing_of_the_kind  # noqa: B018


def public(tree: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Classes and functions that a reader may use, methods included, those inside functions left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list):
                continue  # the one that is called has the docstring
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def test_everything_public_is_documented() -> None:
    """Guards against a function whose shapes, units and errors one must guess."""
    seen = 0
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path} says nothing about itself"
        for node in public(tree):
            seen += 1
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"
    assert seen > 200


def test_files_and_functions_are_short() -> None:
    """Guards against files nobody reads to the end; one that must be longer says "longer than" and why."""
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if "longer than" in text:
            continue
        assert text.count("\n") <= MAX_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, f"{path}:{node.lineno} {node.name}"


def test_nothing_is_left_to_do() -> None:
    """Guards against notes to oneself that are shipped."""
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    for path in TEXTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not words.search(line) or "No TO" + "DO" in line, f"{path}:{number}: {line}"
