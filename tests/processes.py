"""Processes side by side, as torchrun starts them, without the time that loading torch in each of them takes."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

# The server of forks loads these once, and has no thread of torch yet when it forks.
multiprocessing.set_forkserver_preload(["torch", "chiasm.train.run", "small"])


def together(
    function: Callable[..., None], arguments: tuple[Any, ...], count: int, is_awaited: bool = True
) -> mp.ProcessContext | None:
    """Call `function(number, *arguments)` in `count` processes; returns when all ended, or at once with a handle.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one failed, and the others were ended.
    """
    return mp.start_processes(function, arguments, count, is_awaited, start_method="forkserver")
