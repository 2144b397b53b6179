"""`metrics.jsonl` continues after a stop, and the progress bar speaks where there is no terminal."""

import io
import json
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.core import log
from chiasm.core.log import MetricsFile, bar, read_metrics

ROWS = [{"step": step, "note": "猫\u2028狗"} for step in (1, 2, 3)]


def written(path: Path) -> bytes:
    """Three whole rows and a fourth that may be cut."""
    metrics = MetricsFile(path, 0)
    for row in [*ROWS, {"step": 4, "note": "猫"}]:
        metrics.add(row)
    metrics.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Guards against text that breaks a line in two (U+2028 does for some readers), and a row lost at the end."""
    written(tmp_path / "m.jsonl")
    assert read_metrics(tmp_path / "m.jsonl") == [*ROWS, {"step": 4, "note": "猫"}]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_a_torn_line_is_dropped_wherever_it_is_cut(tmp_path: Path) -> None:
    """Guards against a resume that fails on a line cut in the middle, also in the middle of a character."""
    path = tmp_path / "m.jsonl"
    whole = written(path)
    last = whole.rindex(b"{")
    for end in range(last, len(whole) - 2):
        path.write_bytes(whole[:end])
        assert read_metrics(path) == ROWS
        continued = MetricsFile(path, 4)
        continued.add({"step": 5})
        continued.close()
        assert read_metrics(path) == [*ROWS, {"step": 5}]


def test_a_resumed_run_drops_the_steps_it_repeats(tmp_path: Path) -> None:
    """Guards against two rows for one step after a resume from an older checkpoint."""
    path = tmp_path / "m.jsonl"
    written(path)
    continued = MetricsFile(path, 2)
    continued.add({"step": 3, "note": "again"})
    continued.flush()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    assert read_metrics(path)[-1]["note"] == "again"
    continued.close()


def test_a_fresh_run_starts_an_empty_file(tmp_path: Path) -> None:
    """Guards against an earlier run's curve in front of a new one."""
    written(tmp_path / "m.jsonl")
    MetricsFile(tmp_path / "m.jsonl", 0).close()
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_numbers_that_json_cannot_say_are_refused(tmp_path: Path) -> None:
    """Guards against NaN in a file for programs."""
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    with pytest.raises(ValueError, match="JSON compliant"):
        metrics.add({"step": 1, "loss": float("inf")})
    metrics.close()
    assert json.loads("[]") == read_metrics(tmp_path / "m.jsonl")


def test_without_a_terminal_the_bar_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against control codes in a log file, a line a step, and a wrong rate (2 steps a second here)."""
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with bar(Console(file=out, width=200), "training", "steps", 100) as shown:
        for done in range(0, 101, 2):
            shown.update(done, "loss 1.5")
            now[0] += 1
    lines = out.getvalue().splitlines()
    assert lines[0] == "training: 20/100 2.0 steps/s, 40 s left  loss 1.5"
    assert lines[-1] == "training: 100/100 2.0 steps/s  loss 1.5"
    assert len(lines) == 5


def test_after_a_pause_the_rate_is_right_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a mean since the start: an hour asleep at step 20 would promise hours for a minute's work."""
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with bar(Console(file=out, width=200), "training", "steps", 100) as shown:
        for done in range(101):
            shown.update(done)
            now[0] += 3600 if done == 20 else 1
    assert "training: 31/100 1.0 steps/s, 69 s left" in [line.strip() for line in out.getvalue().splitlines()]


def test_a_terminal_gets_one_live_bar() -> None:
    """Guards against a bar that stays open when the work under it fails."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with pytest.raises(RuntimeError), bar(console, "training", "steps", 10) as shown:  # noqa: PT012
        shown.update(3, "note", total=12)
        raise RuntimeError
    assert shown.progress is not None and shown.progress.finished is False
    assert not shown.progress.live.is_started
    assert "3/12" in out.getvalue()


def test_a_notebook_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a cell that fills with lines, or stays silent: in a notebook rich draws no bar."""
    shown: list[str] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            assert raw
            shown[-1] = content["text/plain"]

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        shown.append(content["text/plain"])
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    now = iter(range(100, 200))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(now))
    printed = io.StringIO()
    console = Console(file=printed, force_jupyter=True)
    with bar(console, "training", "steps", 4) as made:
        assert shown == ["training: 0/4"]
        made.update(2, "loss 0.7")
        assert shown[0].startswith("training: 2/4") and shown[0].endswith("loss 0.7")
        made.update(4)
    assert len(shown) == 1 and shown[0].startswith("training: 4/4 2.0 steps/s") and not printed.getvalue()
