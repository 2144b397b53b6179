"""One task at a time, begun again where work has come after its end."""

import asyncio

from chiasm.serve.batcher import Batcher
from chiasm.serve.http.step_loop import StepLoop


class Counting(StepLoop):
    """Takes the steps that are left, and counts its tasks."""

    def __init__(self) -> None:
        super().__init__(Batcher(4, 8), 4)
        self.tasks = self.left = self.taken = 0

    def add(self, steps: int) -> None:
        self.left += steps
        self._go_on()

    async def _run(self) -> None:
        self.tasks += 1
        while self.left:
            self.left, self.taken = self.left - 1, self.taken + 1
            await asyncio.sleep(0)


def test_one_task_does_all_and_a_later_one_the_rest() -> None:
    """Guards against two tasks that step one decoder, and work that nobody does."""

    async def scenario() -> Counting:
        loop = Counting()
        loop.add(3)
        loop.add(2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (loop.tasks, loop.taken) == (1, 5)
        loop.add(1)
        await asyncio.sleep(0)
        await loop.stop()
        return loop

    found = asyncio.run(scenario())
    assert (found.tasks, found.taken) == (2, 6)


def test_stopping_ends_it_at_once() -> None:
    """Also where it never began."""

    async def scenario() -> int:
        await Counting().stop()
        loop = Counting()
        loop.add(1_000_000)
        await asyncio.sleep(0)
        await loop.stop()
        return loop.left

    assert asyncio.run(scenario()) > 0
