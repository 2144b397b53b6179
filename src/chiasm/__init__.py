"""chiasm: models that fuse vision with language, from files to a trained, measured, askable model.

Open a model, then ask it about pictures; each of these takes one picture or text, or a list of them:

    model = chiasm.load("starter")          # packaged, nothing to train; or load("runs/mine"), a run folder
    model.classify("photo.jpg", ["a dog", "a cat"])
    model.encode_image(["a.jpg", "b.jpg"])  # unit vectors float32 [2, e]
    model.tasks                             # what it was trained for: ask, caption, match, classify

Search a folder of photos:

    with chiasm.Index.build("photos", "photos.index", "starter") as index:
        for hit in index.search("a dog in the snow"):
            print(hit.path, hit.similarity)

Train on files of your own from the command line: `chiasm train DATA` says which recipes the files can feed.

Public are the names in `dir(chiasm)`. Everything else may change between versions. Heavy libraries are imported when
something needs them, not here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.core.errors import ChiasmError, InputError
    from chiasm.core.types import Prediction
    from chiasm.serve.engine import Match, Model, load
    from chiasm.serve.index import Hit, Index

__all__ = ["ChiasmError", "Hit", "Index", "InputError", "Match", "Model", "Prediction", "load"]
__version__ = "0.1.0"

_HOMES = {
    "ChiasmError": "chiasm.core.errors",
    "Hit": "chiasm.serve.index",
    "Index": "chiasm.serve.index",
    "InputError": "chiasm.core.errors",
    "Match": "chiasm.serve.engine",
    "Model": "chiasm.serve.engine",
    "Prediction": "chiasm.core.types",
    "load": "chiasm.serve.engine",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chiasm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__version__"])
