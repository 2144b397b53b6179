"""`import chiasm` is quick, and its names are functions whatever else has been imported."""

import subprocess
import sys


def test_importing_is_quick_and_rooms_do_not_take_the_names() -> None:
    """Guards against torch at import, and against `chiasm.train` that is the room once something in it was imported."""
    code = (
        "import sys, chiasm; light = 'torch' in sys.modules, 'numpy' in sys.modules; import chiasm.train.run, "
        "chiasm.evaluate.measure, chiasm.recipes.table; from chiasm import train; "
        "print(light, train is chiasm.train, callable(chiasm.train), callable(chiasm.evaluate), "
        "chiasm.recipes['demo'].__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.split("\n")[0] == "(False, False) True True True demo"
