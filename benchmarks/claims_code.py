"""Whether the code behind a claim has changed since its commit, or its command can no longer be typed."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from chiasm.cli import verbs
from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.recipes.table import RECIPES, find_recipe

ROOT = Path(__file__).resolve().parent.parent
SAME_FILE = "30%"
"""Share of equal lines from which on git takes a file under another name for the same one."""
GONE = "(gone) "


@cache
def git(*words: str) -> str:
    """What git prints; empty where it fails, as on a commit that this copy of the repository lacks."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


@cache
def is_known(commit: str) -> bool:
    """Whether a commit is in this copy of the repository's history."""
    return bool(commit) and bool(git("merge-base", "--is-ancestor", commit, "HEAD") or git("cat-file", "-t", commit))


@cache
def changed(since: str, until: str = "") -> dict[str, str]:
    """{name at `until`: name at `since`} of the package's files that differ; "" on the side where there is none.

    A file that was moved and not edited is equal, and so is one of which only comments and docstrings were edited.
    Without `until`, the working tree is compared.
    """
    ends = [since, until] if until else [since]
    found = git("diff", f"--find-renames={SAME_FILE}", "-l0", "--name-status", *ends, "--", "src/chiasm")
    different = {}
    for line in found.splitlines():
        status, *names = line.split("\t")
        if status.startswith("R"):
            if status != "R100":
                different[names[1]] = names[0]
        else:
            different[names[0] if status[0] in "AM" else f"{GONE}{names[0]}"] = "" if status[0] == "A" else names[0]
    edited = {new: old for new, old in different.items() if old and new.endswith(".py") and not new.startswith(GONE)}
    before = sources(since, edited.values())
    after = sources(until, edited) if until else [(ROOT / name).read_text("utf-8") for name in edited]
    same = {new for new, old, now in zip(edited, before, after, strict=True) if meaning(old) == meaning(now)}
    return {new: old for new, old in different.items() if new not in same}


def sources(commit: str, names: Iterable[str]) -> list[str]:
    """Contents at a commit of files that it has."""
    wanted = list(names)
    asked = "".join(f"{commit}:{name}\n" for name in wanted).encode()
    told = subprocess.run(["git", "cat-file", "--batch"], cwd=ROOT, input=asked, capture_output=True, check=True).stdout
    found = []
    for _ in wanted:
        head, told = told.split(b"\n", 1)
        size = int(head.split()[-1])
        found.append(told[:size].decode())
        told = told[size + 1 :]
    return found


@cache
def meaning(source: str) -> str:
    """The syntax tree of a module without comments, docstrings and texts that stand alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    is_value = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_value and isinstance(statement.value.value, str)  # type: ignore[attr-defined]


@cache
def names_at(commit: str) -> dict[str, str]:
    """{name of a file of the package today: its name at `commit`}, of those that have another."""
    found = git("diff", f"--find-renames={SAME_FILE}", "-l0", "--name-status", "--diff-filter=R", commit, "--", "src")
    return {line.split("\t")[2]: line.split("\t")[1] for line in found.splitlines()}


def changed_files(folders: Sequence[str], since: str, gate: str = "") -> list[str]:
    """Files of the package below `folders` that differ from `since`.

    Args:
        folders: paths below src/chiasm as they are today, folders or files; "!PATH" leaves a part of another out, where
            "PATH" does not stand here too.
        since: a commit.
        gate: a stored curve, a path. Tests hold the numbers of its run equal to it, so that only what changed up to the
            commit that stored it counts.
    """
    until = git("log", "-1", "--format=%h", "--", gate).strip() if gate else ""
    if until and git("merge-base", since, until) == git("rev-parse", until):
        return []  # measured when the curve was there already
    today = names_at(until) if until else {}
    then = {old: new for new, old in today.items()}
    behind = tuple(f"src/chiasm/{folder}" for folder in folders if not folder.startswith("!"))
    aside = tuple(
        f"src/chiasm/{folder[1:]}" for folder in folders if folder.startswith("!") and folder[1:] not in folders
    )
    found = []
    for new, old in changed(since, until).items():
        name = then.get(new, new)
        if name.startswith(aside):
            continue
        # What was split up or taken away since has no name today: it counts for every claim.
        is_gone = name.startswith(GONE) or not (ROOT / name).exists()
        if is_gone or name.startswith(behind) or (old and old.startswith(behind)):
            found.append(name)
    return sorted(found)


def cannot_be_typed(command: str) -> str:
    """Why a command is not understood any more, or "".

    A verb of chiasm is parsed by the command line itself, keys and recipes included; of a script, the file and each
    option must be there.
    """
    words = shlex.split(command)
    while "=" in words[0]:
        words = words[1:]
    if words[0] == "python":
        script = ROOT / words[1]
        if not script.is_file():
            return f"there is no {words[1]}"
        known = set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
        unknown = [word for word in words[2:] if word.startswith("--") and word.split("=")[0] not in known]
        return f"{words[1]} has no option {', '.join(unknown)}" if unknown else ""
    assert words[0] in ("chiasm", "make"), command
    if words[0] == "make":
        return "" if re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M) else f"no target {words[1]}"
    try:
        _parse(words[1:])
    except (InputError, AssertionError) as error:
        return str(error)
    except Exception as error:
        return getattr(error, "message", "") or str(error)
    return ""


def _parse(words: list[str]) -> None:
    known = verbs()
    count = 2 if " ".join(words[:2]) in known else 1
    verb, rest = " ".join(words[:count]), words[count:]
    assert verb in known, f"there is no verb {verb!r}"
    context = known[verb].make_context(verb, list(rest))
    recipe = context.params.get("recipe", "demo" if verb == "demo" else None)
    if recipe is not None:
        assert recipe in RECIPES, f"there is no recipe {recipe!r}"
        override(find_recipe(recipe, files=context.params.get("data") is not None), context.params.get("set_") or [])
