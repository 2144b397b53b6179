"""Where a package that brings weights lies, found without importing it."""

import importlib.util
from pathlib import Path

from chiasm.core.errors import MissingExtraError


def packaged_folder(package: str, distribution: str, extra: str) -> Path:
    """Return the folder of a package.

    Args:
        package: its name for Python.
        distribution: its name for pip.
        extra: of ours, which installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(distribution, extra)
    return Path(spec.origin).parent
