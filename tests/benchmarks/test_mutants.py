"""The planted bugs of benchmarks/mutants.toml can still be planted; `make test-all` plants them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mutants

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = mutants.mutants()


def test_there_are_many_and_none_twice() -> None:
    """Guards against bugs that are dropped where they become inconvenient."""
    assert len(MUTANTS) >= 60
    assert len({one.name for one in MUTANTS}) == len({(one.file, one.old, one.new) for one in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_bug_can_be_planted(mutant: mutants.Mutant) -> None:
    """Guards against a bug whose place has moved on or whose tests are gone, and one that any run would notice.

    Such a one is no program, or uses a name that its module does not have.
    """
    planted, text = mutant.planted(), (mutants.PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert planted is not None, f"{mutant.file} no longer has exactly one {mutant.old!r}"
    ast.parse(planted)
    assert planted != text and unknown_names(planted) <= unknown_names(text)
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert not name or re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.M), test


def unknown_names(program: str) -> set[str]:
    """Names that are used and never bound; those in the strings of annotated shapes count too."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=concise", "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    return set(re.findall(r"F821 (.*)", done.stdout))


def test_a_place_that_is_gone_is_told() -> None:
    """Guards the guard."""
    mutant = MUTANTS[0]
    for other in (mutants.Mutant("a", mutant.file, "no such line", "", []), mutants.Mutant("a", "no.py", "a", "b", [])):
        assert other.planted() is None
