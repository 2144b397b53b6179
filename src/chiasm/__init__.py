"""chiasm: models that fuse vision with language, from files to a trained, measured, askable model.

Train on your own pictures and words. `data` is a folder or a file (docs/data.md says which layouts); the result shows
its scores, has the path of a report with pictures, and the model:

    >>> run = chiasm.train("retrieval", data="PHOTOS", out="runs/photos", train__steps=4, progress=False)
    >>> run.folder, run.report
    (PosixPath('runs/photos'), PosixPath('runs/photos/report.html'))
    >>> score = run.metrics["text_to_image_R@1"]
    >>> score.low <= score.value <= score.high
    True

`chiasm.recipes` lists what can be trained, and `chiasm.configure("retrieval")` returns a recipe's every key. Each key
can be changed: with two underscores for a dot, as above, or by `overrides={"train.steps": 4}`.

Open a model, then ask it about pictures; each of these takes one picture or text, or a list of them:

    >>> model = chiasm.load("starter")  # packaged, nothing to train; or load("runs/photos"), a run folder
    >>> model.classify("photo.jpg", ["a dog", "a cat"]).answer in ("a dog", "a cat")
    True
    >>> model.encode_image(["photo.jpg", "other.jpg"]).shape  # unit vectors
    (2, 1000)

`model.tasks` says what it was trained for: `ask`, `caption`, `match`, `classify`. Search a folder of photos:

    >>> with chiasm.Index.build("PHOTOS", "photos.index", "starter") as index:
    ...     hits = index.search("a red square")
    >>> hits[0].path.endswith(".png"), hits[0].similarity >= hits[1].similarity
    (True, True)

Measure a run on other data, and get each score with its 95 % interval and what it is without seeing:

    >>> found = chiasm.evaluate("runs/photos", "PHOTOS", split="val", progress=False)
    >>> found.metrics["text_to_image_R@1"].n, found.blind["text_to_image_R@1"].n
    (12, 12)

Wrong input raises `InputError`, which says what was given, what is allowed and what to do. Public are the names in
`dir(chiasm)`; everything else may change between versions. Heavy libraries are imported when something needs them, not
here. The same from a terminal: `chiasm --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chiasm.api.benchmarking import BenchResult, bench
    from chiasm.api.compressing import compress
    from chiasm.api.configuring import configure, estimate
    from chiasm.api.exporting import export
    from chiasm.api.measuring import Evaluation, ProbeResult, evaluate, probe
    from chiasm.api.opening import load
    from chiasm.api.training import TrainedRun, train
    from chiasm.core.errors import ChiasmError, InputError
    from chiasm.core.types import Prediction, Score
    from chiasm.recipes.table import RECIPES as recipes  # noqa: N811  the table is what a reader calls recipes
    from chiasm.serve.engine import Match, Model
    from chiasm.serve.index import Hit, Index

__all__ = [
    "BenchResult",
    "ChiasmError",
    "Evaluation",
    "Hit",
    "Index",
    "InputError",
    "Match",
    "Model",
    "Prediction",
    "ProbeResult",
    "Score",
    "TrainedRun",
    "bench",
    "compress",
    "configure",
    "estimate",
    "evaluate",
    "export",
    "load",
    "probe",
    "recipes",
    "train",
]
__version__ = "0.1.0"

_HOMES = {
    "BenchResult": "api.benchmarking",
    "ChiasmError": "core.errors",
    "Evaluation": "api.measuring",
    "Hit": "serve.index",
    "Index": "serve.index",
    "InputError": "core.errors",
    "Match": "serve.engine",
    "Model": "serve.engine",
    "Prediction": "core.types",
    "ProbeResult": "api.measuring",
    "Score": "core.types",
    "TrainedRun": "api.training",
    "bench": "api.benchmarking",
    "compress": "api.compressing",
    "configure": "api.configuring",
    "estimate": "api.configuring",
    "evaluate": "api.measuring",
    "export": "api.exporting",
    "load": "api.opening",
    "probe": "api.measuring",
    "recipes": "recipes.table:RECIPES",
    "train": "api.training",
}
"""Public name -> the module that has it, and its name there where that is another."""

# Four public names are rooms' names too. Python binds a room here when it is first imported, which is therefore done
# now, while it costs nothing: these packages import nothing themselves. From then on the name is looked up below.
for _room in ("compress", "evaluate", "recipes", "train"):
    importlib.import_module(f"chiasm.{_room}")
    del globals()[_room]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chiasm' has no attribute {name!r}")
    home, _, inner = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"chiasm.{home}"), inner or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__version__"])
