"""Training from Python, as `chiasm train` does: one call -> a run folder with scores, report and model."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.api.configuring import plan
from chiasm.api.overrides import Overrides, Place, assignments
from chiasm.api.showing import as_text, measured_tables
from chiasm.core.device import environment
from chiasm.core.log import stderr_console
from chiasm.core.types import Score
from chiasm.evaluate.verdict import Verdict
from chiasm.serve.engine import Model, load
from chiasm.tasks.scoring import scores_as_json
from chiasm.train.config import RunConfig
from chiasm.train.finish import Finished
from chiasm.train.stages import run_stages


# More than eight arguments: each stands for an option of the command line, and all but the first go by name.
def train(
    recipe: Place | RunConfig = "",
    *,
    data: Place = "",
    out: Place | None = None,
    resume: bool = False,
    tiny: bool = False,
    overrides: Overrides | None = None,
    progress: bool = True,
    **keys: object,
) -> "TrainedRun":
    """Train a recipe into a run folder, measure it and write its report.

    Example:
        >>> run = chiasm.train("retrieval", data="PHOTOS", out="runs/photos", train__steps=4, progress=False)
        >>> run.metrics["text_to_image_R@10"].n
        12
        >>> run.model.tasks
        ('retrieval',)

    Args:
        recipe: name of a recipe (`chiasm.recipes` lists them); or your own folder or file, which selects a fitting
            recipe; or a config (`chiasm.configure`). "" with `resume` uses the config stored in `out`.
        data: folder or file of your own images and texts.
        out: run folder to create; runs/RECIPE if not given.
        resume: resume the run in `out`, bit-exactly unless it has a time limit.
        tiny: shrink the recipe to a run of seconds, to test that it works.
        overrides: config keys with dots -> values, such as `{"train.steps": 50}`; `chiasm.configure` shows all keys.
        progress: show progress bars and remarks on standard error.
        **keys: overrides with two underscores for each dot, such as `train__steps=50`.

    Raises:
        InputError: an unknown recipe, key or value, data that do not fit, or a folder that is in use.
        Interrupted: stopped by a signal; `train(resume=True, out=...)` resumes the run.
    """
    console = stderr_console() if progress else Console(quiet=True)
    place = None if out is None else Path(out).expanduser()
    config, folder = plan(recipe, fspath(data), assignments(overrides, keys), tiny, place, resume, console)
    return TrainedRun(folder, config, run_stages(config, folder, resume, console))


@dataclass(frozen=True, slots=True, repr=False)
class TrainedRun:
    """A finished run: its folder, scores and model. Its `repr` is the table of scores.

    Under torchrun only the first process evaluates; in the others `finished` is None and there are no scores.

    Attributes:
        folder: the run folder, which `chiasm.load` opens.
        config: the config of the run.
        finished: all results, predictions included.
    """

    folder: Path
    config: RunConfig
    finished: Finished | None

    @property
    def metrics(self) -> Mapping[str, Score]:
        """Metric name -> score on `config.test_split`, with its 95 % interval."""
        return self.finished.measured.outcome.scores if self.finished else {}

    @property
    def blind(self) -> Mapping[str, Score]:
        """The same metrics with shuffled images: the score that needs no vision."""
        return self.finished.measured.blind["shuffled"].scores if self.finished else {}

    @property
    def verdict(self) -> Verdict | None:
        """Whether the run has learned, in words, with advice."""
        return self.finished.verdict if self.finished else None

    @property
    def report(self) -> Path:
        """The page with scores, curves and examples."""
        return self.folder / "report.html"

    @property
    def model(self) -> Model:
        """The trained model, opened from the folder at each call."""
        return load(self.folder)

    def as_dict(self) -> dict[str, Any]:
        """What `chiasm train --json` writes."""
        if self.finished is None:
            return {"run": str(self.folder)}
        measured, data = self.finished.measured, self.config.data
        header = {"run": str(self.folder), "data": data.path or data.source, "split": measured.split}
        made = {"forgetting": self.finished.forgetting.as_dict(), "verdict": self.finished.verdict.as_dict()}
        return {**header, **scores_as_json(measured.outcome, measured.blind), **made, "environment": environment()}

    def __repr__(self) -> str:
        if self.finished is None:
            return f"TrainedRun({str(self.folder)!r})"
        tables, verdict = as_text(measured_tables(self.finished.measured)), self.finished.verdict.lines()
        return "\n".join([tables, *verdict, f"run folder: {self.folder}   report: {self.report}"])
