"""A task of the event loop that computes one step after the other in the batcher's thread, as long as there is work."""

import asyncio
from abc import ABC, abstractmethod

from chiasm.serve.batcher import Batcher


class StepLoop(ABC):
    """Base of what serves many clients in steps: conversations, drawings.

    Args:
        batcher: whose thread computes.
        max_rows: most rows that are computed at once; others wait in order.
    """

    def __init__(self, batcher: Batcher, max_rows: int) -> None:
        self.batcher, self.max_rows = batcher, max_rows
        self._task: asyncio.Task[None] | None = None

    def _go_on(self) -> None:
        """Run the task, if it does not run already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End; called before the batcher is stopped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _run(self) -> None:
        """Take steps until nothing is left to do."""
