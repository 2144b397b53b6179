"""Processes of a run as threads, each with a group, a rank and a model of its own: many splits in seconds, none hangs.

The collectives are those of torch's test suite, which copy between threads. Beyond them it is checked that all call the
same ones with the same shapes in the same order; otherwise a real group hangs or mixes numbers up.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.multi_threaded_pg import (
    ProcessLocalGroup,
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

SECONDS = 20.0
"""Longest that all processes together may take; a hang is red then."""
_own = threading.local()


@contextmanager
def _spied(calls: list[list[str]]) -> Iterator[None]:
    """Within the block each collective of a thread is noted in the list of its rank."""
    kept = {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "broadcast")}

    def noting(name: str) -> Callable[..., object]:
        def call(*args: Any, **settings: Any) -> object:
            sent = args[1] if name == "all_gather" else args[0]
            calls[_own.rank].append(f"{name} {sent.dtype} {tuple(sent.shape)}")
            return kept[name](*args, **settings)

        return call

    for name in kept:
        setattr(dist, name, noting(name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)


def together(count: int, work: Callable[[int], object]) -> list[Any]:
    """What `work(rank)` returns in each of `count` processes.

    Raises:
        AssertionError: the processes called different collectives, or were not done in time.
        Exception: what the first process raised that raised something.
    """
    if count == 1:
        return [work(0)]
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    calls: list[list[str]] = [[] for _ in range(count)]
    store = dist.HashStore()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    _install_threaded_pg()

    def one(number: int) -> None:
        try:
            dist.init_process_group(
                "threaded", rank=number, world_size=count, store=store, timeout=timedelta(seconds=SECONDS)
            )
            _own.rank = number
            results[number] = work(number)
            dist.destroy_process_group()
        except BaseException as error:  # also the exit that ends a thread whose partner has failed
            errors.append(error)
            ProcessLocalGroup.exception_handle(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    try:
        with _spied(calls):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS)
            is_late = any(thread.is_alive() for thread in threads)
            if is_late:
                ProcessLocalGroup.exception_handle(TimeoutError())
                for thread in threads:
                    thread.join(SECONDS)
        raised = [error for error in errors if not isinstance(error, SystemExit)]
        if raised:
            raise raised[0]
        assert not is_late, f"the processes waited for each other: {[listed[-1:] for listed in calls]}"
        assert all(listed == calls[0] for listed in calls), f"the processes called {calls}"
    finally:
        ProcessLocalGroup.reset()
        _uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
    return results


def grad_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by name, of the parameters that have one."""
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
