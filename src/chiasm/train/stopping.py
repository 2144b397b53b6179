"""Signals that stop a run: SIGINT (Ctrl-C) and SIGTERM (a scheduler)."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopSignals:
    """Turns SIGINT and SIGTERM into a `reason` that the loop reads after each step; a second one raises at once."""

    def __init__(self) -> None:
        self.reason = ""

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block, signals set `reason`; does nothing outside the main thread, whose owner handles them.

        Raises:
            KeyboardInterrupt: a second signal came.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if self.reason:
                raise KeyboardInterrupt
            self.reason = "interrupted" if number == signal.SIGINT else "terminated"

        before = {}
        with suppress(ValueError):  # not in the main thread
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
