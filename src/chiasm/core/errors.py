"""The one tree of errors.

ChiasmError          anything chiasm reports on purpose
├── InputError       the caller gave something wrong: fix the input (exit code 2)
│   ├── MissingExtraError   an optional package is not installed
│   └── MissingTaskError    the model was trained for other tasks
└── JobError         the input was fine but the job failed or stopped (exit code 1)
    └── Interrupted         stopped from outside, what was done is kept (exit code 130)

An InputError always carries three sentences: what was given, what is allowed, what to do.
"""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class ChiasmError(Exception):
    """Base of all errors that chiasm raises on purpose; `exit_code` is the process's exit status."""

    exit_code = 1


class InputError(ChiasmError):
    """Wrong input.

    Args:
        given: what was received, with its place (file, row, key).
        allowed: what would have been accepted.
        do: the next step for the reader.
    """

    exit_code = 2

    def __init__(self, given: str, allowed: str, do: str) -> None:
        self.given, self.allowed, self.do = given, allowed, do
        super().__init__(f"{given}\n  allowed: {allowed}\n  do: {do}")


class MissingExtraError(InputError):
    """An optional package is needed and absent; names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            f"an environment with the extra [{extra}]",
            f"pip install 'chiasm[{extra}]'",
        )


class MissingTaskError(InputError):
    """A model was asked for a task that it was not trained for.

    Args:
        task: the task that is missing.
        trained: the tasks that the model has.
    """

    def __init__(self, task: str, trained: tuple[str, ...]) -> None:
        self.task, self.trained = task, trained
        super().__init__(
            f"this model was not trained for {task}",
            "what it was trained for: " + ", ".join(trained),
            "use another run, or train a recipe that has this task",
        )


class JobError(ChiasmError):
    """The job could not be finished although its input was acceptable."""


class Interrupted(JobError):
    """Stopped from outside (Ctrl-C, SIGTERM); what was done until then is kept."""

    exit_code = 130


def from_system(error: OSError | MemoryError) -> ChiasmError:
    """Convert an error of the operating system into an error of this module."""
    if isinstance(error, MemoryError):
        return JobError("out of memory\n  do: raise train.accumulate, or lower train.batch_size or model.image.size_px")
    said = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE):
        return JobError(f"{said}\n  do: make room; a run then goes on with --resume")
    return InputError(said, "files and folders that may be read and written", "check the path and its permissions")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ` (did you mean 'train.steps'?)`, or an empty string when nothing is close."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
