"""Typing a command in a test, and what must hold after any wrong one."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from chiasm import cli


@dataclass(frozen=True)
class Said:
    """What a command left: its exit status and what it printed."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `chiasm WORDS` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.capsys, self.patch = capsys, patch
        patch.delenv("CHIASM_DEBUG", raising=False)
        patch.setenv("COLUMNS", "200")

    def __call__(self, *words: object) -> Said:
        self.patch.setattr(sys, "argv", ["chiasm", *map(str, words)])
        self.capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = self.capsys.readouterr()
        return Said(code, said.out, said.err)


def assert_refused(said: Said, *parts: str) -> None:
    """The command was refused as wrong input, in three sentences; `parts` occur in what was said."""
    assert said.code == 2, (said.code, said.out, said.err)
    _, found, message = said.err.partition("chiasm: wrong input: ")
    given, _, rest = message.partition("\n  allowed: ")
    allowed, _, do = rest.partition("\n  do: ")
    assert found and given.strip() and allowed.strip() and do.strip(), said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, (part, said.err)


def assert_nothing_half_written(folder: Path) -> None:
    """No temporary file, and no manifest that calls something complete."""
    left = [path for path in folder.rglob("*") if path.name.endswith(".partial") or path.name == "MANIFEST.json"]
    assert not left
