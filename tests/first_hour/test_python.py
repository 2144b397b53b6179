"""What a newcomer sees who types `dir(chiasm)`, `help(chiasm)` and `chiasm --version`."""

import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import chiasm

ROOT = Path(__file__).resolve().parents[2]


def test_public_names_are_listed_and_lead_somewhere() -> None:
    """Guards against a name that is listed and cannot be had, and against inner names among the public ones."""
    listed = [name for name in dir(chiasm) if not name.startswith("__")]
    assert listed == sorted(chiasm.__all__) and {"load", "Model", "Index", "Hit", "InputError"} <= set(listed)
    for name in listed:
        assert getattr(chiasm, name).__doc__, name
        assert name == "recipes" or callable(getattr(chiasm, name)), name


def test_help_says_what_to_do_and_shows_the_methods() -> None:
    """Guards against a help page without a class on it: names that are imported late are easily left out."""
    page = pydoc.render_doc(chiasm, renderer=pydoc.plaintext)
    assert 'chiasm.load("starter")' in page and "chiasm.Index.build(" in page
    assert all(f"chiasm.{verb}(" in page for verb in ("train", "evaluate", "configure"))
    for method in ("encode_image", "classify", "ask", "caption", "match", "search"):
        assert re.search(rf"^ +\|  {method}\(", page, re.MULTILINE), method
    for function in ("load", "train", "evaluate", "probe", "configure", "estimate", "export"):
        assert re.search(rf"^ +{function}\(", page, re.MULTILINE), function
    assert chiasm.__version__ in page


def test_the_version_is_told_without_a_heavy_import() -> None:
    """Guards against a version written in two places, and against seconds of torch for one line."""
    code = "import sys, chiasm.cli; sys.argv = ['chiasm', '--version']; chiasm.cli.main()"
    watched = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    told = subprocess.run([sys.executable, "-c", watched], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout.split("\n")[:2] == [f"chiasm {chiasm.__version__}", "False"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "chiasm.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", chiasm.__version__)
