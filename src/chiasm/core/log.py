"""Progress bars for people, and metrics as JSON lines for programs."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from chiasm.core.files import write_text

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""
LINE_EVERY_S = 10.0
NOTEBOOK_EVERY_S = 0.5
"""A notebook's line is written anew in its place this often: each time is a message to the browser."""
RATE_OVER_S = 60.0
"""A rate is that of the last minute: after a pause, or a machine that was busy, time left is right again."""


class Bar:
    """One progress bar with rate and time left.

    In a notebook it is one line that is written anew in its place; where the output is no terminal, a plain line every
    ten seconds.

    Args:
        console: where to draw.
        what: what is counted, such as "training".
        unit: what one count is, such as "steps".
        total: how many there are.
    """

    def __init__(self, console: Console, what: str, unit: str, total: int) -> None:
        self.console, self.what, self.unit, self.total = console, what, unit, total
        self.spoken = time.monotonic()
        self.seen: deque[tuple[float, int]] = deque()
        self.progress: RichProgress | None = None
        self.task: TaskID | None = None
        self.line = _NotebookLine(f"{what}: 0/{total}") if console.is_jupyter else None
        if console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("[dim]{task.fields[note]}"),
            )
            self.progress = RichProgress(*columns, console=console, transient=False)
            self.task = self.progress.add_task(what, total=total, rate="", note="")
            self.progress.start()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show the progress; `note` is a short remark, `total` a changed total."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        rate = self._rate(now, done)
        said = f"{rate:.1f} {self.unit}/s" if rate else ""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, total=self.total, rate=said, note=note)
        elif now - self.spoken >= (NOTEBOOK_EVERY_S if self.line else LINE_EVERY_S) or done == self.total:
            self.spoken = now
            left = f", {(self.total - done) / rate:.0f} s left" if rate and done < self.total else ""
            text = f"{self.what}: {done}/{self.total} {said}{left}  {note}"
            if self.line:
                self.line.write(text.rstrip())
            else:
                self.console.print(text, highlight=False, soft_wrap=True)

    def _rate(self, now: float, done: int) -> float:
        """Counts a second over the last minute, or since the update before this one where that is longer ago."""
        while len(self.seen) > 1 and now - self.seen[0][0] > RATE_OVER_S:
            self.seen.popleft()
        if not self.seen or now - self.seen[-1][0] >= RATE_OVER_S / 100:
            self.seen.append((now, done))
        start, first = self.seen[0]
        return (done - first) / (now - start) if now > start else 0.0

    def close(self) -> None:
        """Leave the bar as it is and give the line back."""
        if self.progress is not None:
            self.progress.stop()


class _NotebookLine:
    """A line in the output of a notebook's cell, which can be written anew.

    Args:
        text: what stands there first.
    """

    def __init__(self, text: str) -> None:
        from IPython.display import display  # there wherever a notebook runs

        self.handle = display({"text/plain": text}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """Put other text in its place."""
        self.handle.update({"text/plain": text}, raw=True)


@contextmanager
def bar(console: Console, what: str, unit: str, total: int) -> Iterator[Bar]:
    """A `Bar` that is closed however the block ends."""
    made = Bar(console, what, unit, total)
    try:
        yield made
    finally:
        made.close()


def stderr_console() -> Console:
    """The console for people; answers and tables go to stdout, so that they can be piped."""
    return Console(file=sys.stderr)


class MetricsFile:
    """`metrics.jsonl`: one object a line, appended; continued after a stop without a gap or a repeated step.

    Args:
        path: the file.
        step: steps that are already done; lines of later steps, and a torn last line, are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = (
            [json.dumps(row, ensure_ascii=False) for row in read_metrics(path) if row["step"] <= step] if step else []
        )
        write_text(path, "".join(line + "\n" for line in kept))
        self.file = open(path, "a", encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one object; it must have a "step"."""
        self.file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        self.file.flush()

    def close(self) -> None:
        """Flush and close."""
        self.file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, without a last line that was cut off by a kill."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):  # bytes, because a cut may go through a character
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append(row)
    return rows
