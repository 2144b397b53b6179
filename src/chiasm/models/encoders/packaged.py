"""Find the folder of a package with weights, without importing it."""

import importlib.util
from pathlib import Path

from chiasm.core.errors import MissingExtraError


def packaged_folder(package: str, distribution: str, extra: str) -> Path:
    """Return the folder of a package.

    Args:
        package: its import name.
        distribution: its name on PyPI.
        extra: the extra of chiasm that installs it.

    Raises:
        MissingExtraError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(distribution, extra)
    return Path(spec.origin).parent
