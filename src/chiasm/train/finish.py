"""After the last step: interpolate weights, measure the selected ones, and write verdict, report and run folder."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from chiasm.core.device import environment, peak_memory_bytes
from chiasm.core.log import read_metrics
from chiasm.core.types import Score
from chiasm.data.dataset import Dataset
from chiasm.data.ledger import FILE as LEDGER
from chiasm.evaluate.calibrating import Fitted
from chiasm.evaluate.class_share import ClassShare
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import SplitResult, measure, open_prepared
from chiasm.evaluate.memorisation import nearest_training
from chiasm.evaluate.verdict import Course, Verdict, judge
from chiasm.models.projection import class_heads, set_class_share
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import choose_example
from chiasm.pipeline.zero_shot_starter import STARTER, starter_pipeline, without_classes
from chiasm.report.cards import SHOWN_DRAWINGS, build_report
from chiasm.report.forgetting import ForgettingFacts, RetentionFacts
from chiasm.report.page import RunFacts, write_report
from chiasm.tasks.scoring import scores_as_json
from chiasm.tasks.space import SharedSpace
from chiasm.train.adaptation import trains_space
from chiasm.train.class_share import choose_class_share
from chiasm.train.config import config_of
from chiasm.train.interpolation import interpolate
from chiasm.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Finished:
    """What a finished run hands to its caller."""

    folder: Path
    measured: SplitResult
    facts: RunFacts
    forgetting: ForgettingFacts
    verdict: Verdict


def limit_forgetting(trainer: Trainer, console: Console) -> ForgettingFacts:
    """Interpolate weights if the config sets it, and measure the old domain with the weights to be saved."""
    hooks = trainer.hooks
    progress, check, interpolation = trainer.progress, hooks.retention, None
    config = trainer.run.train
    before = Score(**progress.retention_before) if check else None  # type: ignore[arg-type]
    trainer.pipeline.model.eval()
    if config.interpolate:
        primary, floor = trainer.primary, config.retention.floor(before.value) if before else 0.0
        old = check.measure if check else None
        model, start = trainer.pipeline.model, trainer.execution.kept("before")
        interpolation = interpolate(model, start, primary, lambda: hooks.validate()[primary], old, floor, console)
        console.print(
            f"interpolated: {interpolation.alpha:g} of the way from before to after training. {interpolation.rule}"
        )
    share = _mixed_with_start(trainer, console)
    if check is None or before is None:
        return ForgettingFacts(progress.lr, progress.lr_why, None, interpolation, share)
    facts = RetentionFacts(check.metric, check.about, before, check.measure(), check.config.max_drop, progress.stopped)
    (check.report if facts.after.value >= check.config.floor(before.value) else check.warn)(facts.sentence())
    return ForgettingFacts(progress.lr, progress.lr_why, facts, interpolation, share)


def _mixed_with_start(trainer: Trainer, console: Console) -> ClassShare | None:
    """Select the share of the class space in a run that started from the starter; None in other runs."""
    model = trainer.pipeline.model
    if trainer.run.init_from != STARTER or not class_heads(model) or not trains_space(trainer.names):
        return None
    if not trainer.progress.step:  # nothing was trained beside the classes
        set_class_share(model, 1.0)
        return None
    share = choose_class_share(model, (trainer.primary, *_space_metrics(trainer)), trainer.hooks.validate, console)
    console.print(f"share of ImageNet's classes in the cosine, by {share.metric} on validation: {share.share:g}")
    if share.share == 0:
        without_classes(trainer.pipeline)
    return share


def _space_metrics(trainer: Trainer) -> list[str]:
    """Primary metrics of the tasks with a space that images and texts share."""
    return [task.primary_metric for task in trainer.pipeline.tasks.values() if isinstance(task, SharedSpace)]


def measure_finally(
    pipeline: Pipeline, ready: EncodedOnce, validation: Dataset, fitted: Fitted, console: Console
) -> SplitResult:
    """Measure the best weights once on the recipe's final split, and the starter too if the run names it.

    `ready` are the validation examples, encoded already for calibration.
    """
    config = config_of(pipeline)
    split = config.test_split
    if split == "val":
        measured = measure(pipeline, ready.examples, validation.ledger, split, console, fitted, ready)
    else:
        examples, ledger = open_prepared(pipeline, split, console)
        measured = measure(pipeline, examples, ledger, split, console)
    if config.init_from != STARTER:
        return measured
    starter = starter_pipeline(pipeline.device)
    starter.config = replace(starter.config, data=config.data, seed=config.seed)
    examples, _ = open_prepared(starter, split, Console(quiet=True))
    return replace(measured, start=evaluate(starter, examples))


MEASURED_IN = {"execution": "fp32: a training measures in the format that its weights are kept in"}
"""In `environment.json`; an opened run has a plan (`pipeline.execution_plan`), which `chiasm show RUN` tells."""


def finish(
    trainer: Trainer,
    training: Dataset,
    measured: SplitResult,
    forgetting: ForgettingFacts,
    folder: Path,
    console: Console,
) -> Finished:
    """Write metrics, report, and last the manifest that makes the folder a finished run."""
    progress, pipeline = trainer.progress, trainer.pipeline
    config = config_of(pipeline)
    pipeline.config = replace(config, train=replace(config.train, steps=progress.total_steps))
    facts_environment = {**environment(), "peak_memory_bytes": peak_memory_bytes()}
    data = pipeline.config.data
    own_data = ["--data", data.path] if data.path else []
    facts = RunFacts(
        recipe=pipeline.config.recipe,
        command=shlex.join(["chiasm", "train", pipeline.config.recipe, *own_data, "--out", str(folder)]),
        hardware=f"{facts_environment['cpu']}, {facts_environment['cores']} cores, {facts_environment['device']}",
        precision=progress.precision_why,
        training_time_s=progress.trained_s,
        steps=progress.step,
        run=str(folder),
        images_per_s=progress.step * trainer.loader.batch_size / max(progress.trained_s, 1e-9),
    )
    epoch, numbers = trainer.loader.indices(0)
    batch = [training.example(number, epoch) for number in numbers[:12]]
    rows = read_metrics(folder / "metrics.jsonl")
    drawn = [one.prediction.image for one in measured.outcome.drawn[:SHOWN_DRAWINGS]]
    shown = [image for image in drawn if image is not None]
    measured = replace(measured, nearest=nearest_training(pipeline, training, shown))
    verdict = judge(measured, _course(trainer, forgetting.class_share, rows))
    write_report(folder, build_report(pipeline, measured, facts, rows, batch, facts_environment, forgetting, verdict))
    training.ledger.write(folder / LEDGER)
    results = {
        "split": measured.split,
        **scores_as_json(measured.outcome, measured.blind),
        "forgetting": forgetting.as_dict(),
    }
    results["verdict"] = verdict.as_dict()
    extra = {
        "environment.json": json.dumps({**facts_environment, **MEASURED_IN}, indent=2).encode(),
        "results.json": json.dumps(results, indent=2, ensure_ascii=False).encode(),
    }
    kept = ("metrics.jsonl", "report.html", LEDGER)
    pipeline.save(folder, choose_example(measured.examples), extra, keep=kept, others=measured.examples)
    console.print(f"run folder: {folder}   report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return Finished(folder, measured, facts, forgetting, verdict)


def _course(trainer: Trainer, share: ClassShare | None, rows: Sequence[Mapping[str, float]]) -> Course:
    """Facts of training for the verdict, from the rows of `metrics.jsonl`."""
    name, progress = f"val/{trainer.primary}", trainer.progress
    return Course(
        metric=trainer.primary,
        steps=progress.step,
        examples=len(trainer.loader.dataset),
        kept_step=0 if share is not None and share.keeps_start else progress.best_step,
        validated=[(int(row["step"]), row[name]) for row in rows if name in row],
        start=STARTER if trainer.run.init_from == STARTER else "",
    )
