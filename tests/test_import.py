"""A start loads only what it needs, and public names are functions whatever else has been imported."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "transformers", "PIL", "tokenizers", "safetensors", "rich", "pygments", "matplotlib"}
"""What takes longer to import than everything that `chiasm --help` needs."""


def said_by(code: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(
    "start",
    [
        "import chiasm",
        "import chiasm.cli",
        "sys.argv = ['chiasm', '--help']\nfrom chiasm.cli import app\napp(standalone_mode=False)",
        "sys.argv = ['chiasm', 'index', '--help']\nfrom chiasm.cli import app\napp(standalone_mode=False)",
        "sys.argv = ['chiasm', 'train', '--help']\nfrom chiasm.cli import app\napp(standalone_mode=False)",
    ],
)
def test_a_start_loads_nothing_heavy(start: str) -> None:
    """Guards against a start that waits for libraries which the text on the screen does not need."""
    loaded = set(said_by(f"import sys\n{start}\nprint('loaded', *sys.modules)").partition("loaded ")[2].split())
    assert "chiasm" in loaded and not loaded & HEAVY


def test_importing_keeps_the_names() -> None:
    """Guards against `chiasm.train` that is the room once something in it was imported."""
    code = (
        "import chiasm, chiasm.train.run, chiasm.evaluate.measure, chiasm.recipes.table; from chiasm import train; "
        "print(train is chiasm.train, callable(chiasm.train), callable(chiasm.evaluate), "
        "chiasm.recipes['demo'].__name__)"
    )
    assert said_by(code).split("\n")[0] == "True True True demo"
