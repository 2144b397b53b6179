"""What a command writes with --json, for tests that compare the two doors."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from chiasm.cli import main


def typed_json(*words: str) -> dict[str, Any]:
    """Type a command in the current folder; it must succeed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["chiasm", *words, "--json", "said.json"])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return json.loads(Path("said.json").read_text(encoding="utf-8"))
