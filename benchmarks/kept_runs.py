"""Runs that a benchmark keeps, so that a second call goes on."""

from pathlib import Path

from rich.console import Console

from chiasm.core.run_folder import MANIFEST
from chiasm.train.config import RunConfig
from chiasm.train.run import run


def finished(config: RunConfig, folder: Path) -> Path:
    """Train a config into a folder, unless it is there."""
    if not (folder / MANIFEST).exists():
        run(config, folder, True, Console(stderr=True))
    return folder
