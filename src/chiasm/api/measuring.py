"""Evaluation and linear probes from Python, as `chiasm evaluate` and `chiasm probe` do."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import fspath
from typing import Any

from rich.console import Console

from chiasm.api.opening import EXECUTION, change, execution_in, unchanged
from chiasm.api.overrides import Overrides, Place, assignments, check_settable
from chiasm.api.showing import as_text, measured_tables, probe_tables
from chiasm.core.device import environment
from chiasm.core.errors import InputError
from chiasm.core.log import stderr_console
from chiasm.core.types import Score
from chiasm.data.files import of_files
from chiasm.data.ledger import Ledger
from chiasm.evaluate.comparison import paired_differences
from chiasm.evaluate.evaluator import evaluate as run_tasks
from chiasm.evaluate.linear_probe.run import Probed
from chiasm.evaluate.linear_probe.run import probe as run_probe
from chiasm.evaluate.measure import SplitResult, measure, open_prepared
from chiasm.metrics.paired import PairedResult
from chiasm.pipeline.execution_plan import Plan
from chiasm.serve.engine import Model, load
from chiasm.tasks.scoring import Outcome, scores_as_json


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Scores of a run on a split. Its `repr` is the table of scores.

    Attributes:
        run: the run as given; for a model, its tasks.
        data: path of the files, or name of the generator.
        measured: all results, predictions included.
        against: the run to compare with; "" if none.
        differences: metric -> paired difference, this run minus the other, on the same items.
        plan: the number formats that the run computed in.
    """

    run: str
    data: str
    measured: SplitResult
    against: str = ""
    differences: Mapping[str, PairedResult] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)

    @property
    def split(self) -> str:
        """The split that was measured on."""
        return self.measured.split

    @property
    def metrics(self) -> Mapping[str, Score]:
        """Metric name -> score with its 95 % interval and count."""
        return self.measured.outcome.scores

    @property
    def blind(self) -> Mapping[str, Score]:
        """The same metrics with shuffled images: the score that needs no vision."""
        return self.measured.blind["shuffled"].scores

    def as_dict(self) -> dict[str, Any]:
        """What `chiasm evaluate --json` writes."""
        differences = {name: asdict(one) for name, one in self.differences.items()}
        compared = {"against": {"run": self.against, "differences": differences}} if self.against else {}
        ends = {**compared, "ledger": self.measured.ledger.summary(), "environment": self.environment}
        scores = scores_as_json(self.measured.outcome, self.measured.blind)
        return {"run": self.run, "data": self.data, "split": self.split, **scores, **ends}

    @property
    def environment(self) -> dict[str, Any]:
        """The machine, and the plan."""
        return {**environment(), "execution": self.plan.as_dict()}

    def __repr__(self) -> str:
        return as_text(measured_tables(self.measured))


# More than eight arguments: each stands for an option of the command line.
def evaluate(
    run: Place | Model,
    data: Place | None = None,
    split: str = "val",
    *,
    against: Place | Model | None = None,
    overrides: Overrides | None = None,
    progress: bool = True,
    **keys: object,
) -> Evaluation:
    """Measure a run on a split: metrics with count and 95 % interval, and blind scores.

    Blind scores are those of the same model with shuffled images, without images, and without texts.

    Example:
        >>> found = chiasm.evaluate("runs/photos", split="val")
        >>> found.metrics["text_to_image_R@10"].n, found.blind["text_to_image_R@10"].n
        (12, 12)

    Args:
        run: a run folder, a folder in a layout of `docs/checkpoints.md`, the word "starter", or a model.
        data: folder or file; the run's own data if not given.
        split: split to measure on.
        against: another run to compare with on the same data.
        overrides: config keys with dots -> values; keys of `data`, `decoding` and `seed`, `model.execution` for a run
            that is not open yet, and those of tasks that
            evaluation alone reads (`evaluation_keys`), such as `tasks.conversation.writes`.
        progress: show progress bars and remarks on standard error.
        **keys: overrides with two underscores for each dot, such as `decoding__method="beam"`.

    Raises:
        InputError: data that cannot be read, or that lack the annotations of the run's tasks.
    """
    console = stderr_console() if progress else Console(quiet=True)
    typed = assignments(overrides, keys)
    check_settable(typed, ("data.", "seed=", "decoding.", "tasks.", EXECUTION))
    model, other = (None if one is None else _opened(one, execution_in(typed)) for one in (run, against))
    assert model is not None, "a run is given"
    with unchanged(model, other):
        pipeline = model.pipeline
        chosen = pipeline.config.data
        if data is not None:
            chosen = of_files(chosen, fspath(data))
        change(pipeline, chosen, typed)
        second = _seen(other, model, split, typed, console) if other else None
        examples, ledger = open_prepared(pipeline, split, console)
        measured = measure(pipeline, examples, ledger, split, console)
        differences = paired_differences(measured.outcome, second, pipeline.config.seed) if second else {}
        source = fspath(data) if data is not None else pipeline.config.data.path or pipeline.config.data.source
    return Evaluation(_name(run), source, measured, "" if against is None else _name(against), differences, model.plan)


# More than eight arguments: each stands for an option of the command line.
def probe(
    run: Place | Model,
    data: Place,
    split: str = "val",
    *,
    shots: Sequence[int] = (),
    draws: int = 10,
    mirror: bool = False,
    overrides: Overrides | None = None,
    progress: bool = True,
    **keys: object,
) -> "ProbeResult":
    """Fit a linear probe on the features of a run's image tower, to measure how well they separate new classes.

    Also measures few-shot probes, over several draws, and zero-shot classification by the class names.

    Example:
        >>> found = chiasm.probe("starter", "CLASSES", split="test", shots=(1, 2), draws=2, progress=False)
        >>> found.probed.classes, found.metrics["acc1"].n
        (('dark', 'grey', 'light'), 15)

    Args:
        run: as in `evaluate`.
        data: images with classes: a folder of classes, or files with a label.
        split: split to measure on; not used for fitting or selection.
        shots: numbers of training examples per class.
        draws: number of draws of the few training examples, 2 or more.
        mirror: also use every image's mirror image.
        overrides: config keys with dots -> values; only keys of `data` and `seed`.
        progress: show progress bars and remarks on standard error.
        **keys: overrides with two underscores for each dot.

    Raises:
        InputError: data without classes, or too few of them.
    """
    console = stderr_console() if progress else Console(quiet=True)
    typed = assignments(overrides, keys)
    check_settable(typed, ("data.", "seed="))
    if draws < 2:
        raise InputError(f"--draws {draws}", "2 or more, 10 are usual", "an interval over draws needs several")
    model = _opened(run)
    with unchanged(model):
        change(model.pipeline, of_files(model.pipeline.config.data, fspath(data)), typed)
        probed, ledger = run_probe(model.pipeline, split, tuple(sorted({*shots} - {0})), draws, mirror, console)
        return ProbeResult(_name(run), fspath(data), probed, ledger, model.pipeline.config.seed, mirror)


@dataclass(frozen=True, slots=True, repr=False)
class ProbeResult:
    """Result of a linear probe. Its `repr` is the tables of scores.

    Attributes:
        run, data: as given.
        probed: all results.
        ledger: record of used and rejected files.
        seed: seed of the draws.
        mirror: whether mirror images were used too.
    """

    run: str
    data: str
    probed: Probed
    ledger: Ledger
    seed: int
    mirror: bool

    @property
    def metrics(self) -> Mapping[str, Score]:
        """Metric name -> score of the linear probe."""
        return self.probed.scores

    @property
    def blind(self) -> Mapping[str, Score]:
        """The same metrics with shuffled images."""
        return self.probed.blind

    def as_dict(self) -> dict[str, Any]:
        """What `chiasm probe --json` writes."""
        ends = {"seed": self.seed, "mirror": self.mirror, "ledger": self.ledger.summary(), "environment": environment()}
        return {"run": self.run, "data": self.data, **self.probed.as_dict(), **ends}

    def __repr__(self) -> str:
        return as_text(probe_tables(self.probed))


def _opened(run: Place | Model, execution: str = "") -> Model:
    if isinstance(run, Model) and execution:
        raise InputError(
            "model.execution for an open model", "a run that is opened by this call", "chiasm.load(run, ...)"
        )
    return run if isinstance(run, Model) else load(run, execution)


def _name(run: Place | Model) -> str:
    return "a model of " + ", ".join(run.tasks) if isinstance(run, Model) else fspath(run)


def _seen(other: Model, model: Model, split: str, typed: Sequence[str], console: Console) -> Outcome:
    """Outcome of another run on the data that the first run is measured on."""
    # Both runs share data, seed and overrides; the other run keeps its own decoding unless it is overridden.
    other.pipeline.config = replace(other.pipeline.config, seed=model.pipeline.config.seed)
    writing = [one for one in typed if one.strip().startswith("decoding.")]
    change(other.pipeline, model.pipeline.config.data, writing)
    examples, _ = open_prepared(other.pipeline, split, console)
    return run_tasks(other.pipeline, examples)
