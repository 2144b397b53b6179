"""chiasm: models that fuse vision with language, from files to a trained, measured, askable model.

`chiasm.load(RUN)` opens a run folder, `chiasm.Index` searches photos. Heavy libraries are imported when something
needs them, not here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.core.errors import ChiasmError, InputError
    from chiasm.serve.engine import Model, load
    from chiasm.serve.index import Index

__all__ = ["ChiasmError", "Index", "InputError", "Model", "load"]

_HOMES = {
    "ChiasmError": "chiasm.core.errors",
    "Index": "chiasm.serve.index",
    "InputError": "chiasm.core.errors",
    "Model": "chiasm.serve.engine",
    "load": "chiasm.serve.engine",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chiasm' has no attribute {name!r}")
