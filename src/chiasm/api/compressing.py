"""Smaller runs, as `chiasm compress` writes them."""

from collections.abc import Sequence
from os import fspath
from pathlib import Path

from rich.console import Console

from chiasm.api.overrides import Place
from chiasm.compress.smaller import Compressed
from chiasm.compress.smaller import compress as make_smaller
from chiasm.core.device import pick_device
from chiasm.core.log import stderr_console


# More than eight arguments: each stands for an option of the command line.
def compress(
    run: Place,
    out: Place,
    to: str | Sequence[str] = "int8",
    data: Place | None = None,
    split: str = "val",
    *,
    max_loss: float = 1.0,
    progress: bool = True,
) -> Compressed:
    """Write a smaller run folder, if what it loses on your data is small enough.

    The run as it was and each variant are measured on the same items: the primary metric and the interval of its
    difference, cosine of the vectors, size, latency and memory. The folder has them as `compression.html`.

    Example:
        >>> smaller = chiasm.compress("runs/photos", "runs/small", "int8", "PHOTOS", max_loss=100, progress=False)
        >>> smaller.chosen, smaller.variants[1].folder_bytes < smaller.variants[0].folder_bytes
        ('int8', True)

    Args:
        run: a run folder, or a folder in the layout of Hugging Face or open_clip.
        out: run folder to create; it opens, answers and is measured like any other.
        to: "int8", "bf16", "pruned25", "pruned50", "layers25", "layers50" or such as "pruned50+int8"; of several the
            smallest that passes is written.
        data: folder or file; the run's own data if not given.
        split: split to measure on.
        max_loss: points (hundredths) of the primary metric that may be lost.
        progress: show progress bars and remarks on standard error.

    Raises:
        InputError: an unknown variant, `out` exists, or data that do not fit the run.
        JobError: every variant loses more than `max_loss`; nothing is written.
    """
    names = (to,) if isinstance(to, str) else tuple(to)
    console = stderr_console() if progress else Console(quiet=True)
    source, folder = (Path(place).expanduser() for place in (run, out))
    chosen = "" if data is None else fspath(data)
    return make_smaller(source, names, folder, pick_device(), console, data=chosen, split=split, max_loss=max_loss)
