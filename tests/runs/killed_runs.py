"""Train one run through many deaths, then the same run in one go; started by test_resume as a process of its own.

Every attempt is a fork of this process, which has loaded all libraries but computed nothing, so an attempt costs no
start-up. Some are killed from outside at a random moment, others end themselves in the middle of writing a file.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small import small_config, start

from chiasm.core import files

CONFIG = small_config(steps=24, checkpoint_every=2, validate_every=12)


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def train(folder: Path, crash_after: int | None = None) -> None:
    files._crash_countdown = crash_after
    start(CONFIG, folder, resume=True)


def newest(folder: Path) -> str:
    return max((path.name for path in (folder / "checkpoints").glob("step-*")), default="")


def main(folder: Path, times: int) -> None:
    torch.set_num_threads(1)
    draws = random.Random(5)
    killed = crashed = 0
    for number in range(times):
        before, pid = newest(folder), child(lambda: train(folder))
        while newest(folder) == before and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        if number % 2:
            continue
        pid = child(lambda: train(folder, crash_after=draws.randrange(5, 60)))
        _, status = os.waitpid(pid, 0)
        crashed += os.WEXITSTATUS(status) == 137
    whole = folder.with_name("whole")
    for place in (folder, whole):
        _, status = os.waitpid(child(lambda place=place: train(place)), 0)
        if status:
            raise SystemExit(f"the last run into {place} ended with {status}")
    sys.stdout.write(json.dumps({"killed": killed, "crashed": crashed, "whole": str(whole)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
