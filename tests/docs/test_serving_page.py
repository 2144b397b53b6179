"""The commands and programs of docs/serving.md run as they stand there."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import chiasm
from chiasm import cli
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings

sys.path.append(str(Path(__file__).resolve().parents[1] / "serve"))
from doors import running

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture
def beside_a_run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_a_run")
def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a page whose commands fail, or print nothing."""
    lines = [line for line in PAGE.splitlines() if line.startswith("chiasm ") and not line.startswith("chiasm serve")]
    assert len(lines) == 4
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        assert not code and re.search(r"\d", capsys.readouterr().out), line


@pytest.mark.usefixtures("beside_a_run")
def test_programs(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against programs that were right once; those over HTTP meet a server of the run."""
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(programs) == 3
    names: dict[str, object] = {}
    with running(Service(chiasm.load(tiny_run), "demo", ServerSettings())) as door:
        for program in programs:
            exec(compile(program.replace("http://127.0.0.1:8000", door.address), "serving.md", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert "'grid'" in said and "'captions'" in said and said.rstrip().endswith("256")
