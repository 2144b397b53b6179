"""The loop: batch -> loss per task -> gradient -> step -> log, validate, checkpoint. It is the only training loop.

Tasks are trained together: a batch's images are encoded once, and a step minimises the weighted sum of the tasks'
losses. Runs differ by their recipe: tasks, objectives, trainable parameters, data.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiasm.core.device import DTYPES
from chiasm.core.errors import InputError, Interrupted, JobError
from chiasm.core.files import write_json
from chiasm.core.log import Bar, MetricsFile
from chiasm.core.types import Batch, Score
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.adaptation import adaptable, frozen_towers, rate_factor
from chiasm.train.config import config_of
from chiasm.train.curves import TensorBoard
from chiasm.train.execution import make_execution
from chiasm.train.forgetting import RetentionCheck
from chiasm.train.gradient_cache import check_exact
from chiasm.train.interpolation import names_between
from chiasm.train.length import Length, TimeLimit, planned_length
from chiasm.train.loader import Loader
from chiasm.train.optimizer import learning_rate, trainable_names
from chiasm.train.parts import Step
from chiasm.train.rates import peak_rate
from chiasm.train.state import Progress, read_progress, save_checkpoint
from chiasm.train.stopping import StopSignals


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that the loop calls."""

    validate: Callable[[], Mapping[str, Score]]
    """Scores of the current weights on the validation split; the whole of it, in the process that calls it."""
    validate_together: Callable[[], Mapping[str, Score]]
    """The same, called by all processes, which share the encoding; {} in all but rank 0."""
    extra_files: Callable[[], dict[str, bytes]]
    """Config and vocabularies, stored in each checkpoint so that a resumed run uses the same ones."""
    retention: RetentionCheck | None = None
    """The old domain; None in all processes but rank 0, and where the config names none."""


class Trainer:
    """Trains a pipeline's model.

    Args:
        pipeline: the model with tasks and codec; holds the fp32 weights.
        loader: batches by step.
        folder: the run folder; checkpoints go below it.
        hooks: validation and identity files.
        primary: name of the metric that picks the best weights; larger is better.
    """

    def __init__(self, pipeline: Pipeline, loader: Loader, folder: Path, hooks: Hooks, primary: str) -> None:
        self.pipeline, self.loader, self.folder, self.hooks, self.primary = pipeline, loader, folder, hooks, primary
        self.run = config_of(pipeline)
        self.train = self.run.train
        chosen = trainable_names(pipeline.model, self.train.trainable, frozen_towers(self.run.model))
        self.names = adaptable(chosen, self.train)
        if self.train.exact_contrast and self.train.accumulate > 1 and pipeline.model.parts.contrast:
            check_exact(pipeline.model)
        self.execution = make_execution(pipeline, self.names)
        self.progress = Progress()
        self.signals = StopSignals()

    # --- state ----------------------------------------------------------------------------------------------

    def start(
        self, checkpoint: Path | None, precision: str, why: str, pretrained: frozenset[str] = frozenset()
    ) -> None:
        """Start at step 0 or at a checkpoint, which also fixes precision, length and learning rate.

        Args:
            checkpoint: None starts a new run.
            precision: number format of a new run.
            why: reason for it.
            pretrained: names of the parameters of a new run that are not newly initialised.

        Raises:
            InputError: the run interpolates, and everything that is trained starts anew.
        """
        if checkpoint is not None:
            self.progress = read_progress(checkpoint)
        else:
            self.progress = Progress(precision=precision, precision_why=why, total_steps=self.length.steps)
            self.progress.lr, self.progress.lr_why = self._rate(pretrained)
        self.execution.prepare(DTYPES[self.progress.precision], checkpoint)
        if checkpoint is None and self.train.interpolate:
            self.execution.keep("before", self._between(pretrained))
        if not self.train.lr:
            self.train = replace(self.train, lr=self.progress.lr)

    def sizes(self, pretrained: frozenset[str]) -> tuple[int, int, int, int]:
        """Inputs of the learning-rate rule: trained parameters, pre-trained ones among them, images a step, steps."""
        named = dict(self.pipeline.model.named_parameters())
        known = [name for name in self.names if names_between([name], pretrained)]
        trained, taken = (sum(named[name].numel() for name in names) for names in (self.names, known))
        return trained, taken, self.loader.batch_size, self.length.steps

    def _rate(self, pretrained: frozenset[str]) -> tuple[float, str]:
        if self.train.lr:
            return self.train.lr, f"{self.train.lr:g}: set by train.lr"
        return peak_rate(*self.sizes(pretrained))

    def _between(self, pretrained: frozenset[str]) -> list[str]:
        names = names_between(self.names, pretrained)
        if not names:
            raise InputError(
                "train.interpolate is true, and everything that is trained starts anew",
                "trained weights that were there before: of init_from, or of a pre-trained tower",
                "--set init_from=RUN, or --set train.interpolate=false",
            )
        return names

    def save(self) -> None:
        """Write a checkpoint of this step; only the first process writes."""
        tensors = self.execution.state(self.pipeline.saved_names())
        if self.execution.is_rank0:
            checkpoints, files = self.folder / "checkpoints", self.hooks.extra_files()
            save_checkpoint(checkpoints, self.progress, tensors, files, self.train.keep_checkpoints)

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self, progress_bar: Bar, board: TensorBoard | None) -> None:
        """Train to the end, to early stopping, or until a stop signal; `board` None draws no curves.

        Raises:
            Interrupted: a signal came; the state after the current step was saved.
            JobError: a loss or gradient stopped being finite; names the step and the examples.
        """
        progress = self.progress
        metrics = MetricsFile(self.folder / "metrics.jsonl", progress.step) if self.execution.is_rank0 else None
        before, started = progress.trained_s, time.monotonic()
        limit = TimeLimit(self.train.limit_s, self.length.steps, progress)
        last = progress.step if self._is_over() else self.length.steps
        try:
            if progress.step == 0:
                if self.train.retention.path:
                    # The validation before training counts again.
                    progress.best_value, progress.worse_in_a_row = None, 0
                    self._validate(metrics, board)
                self.save()
            if not last:
                self._validate(metrics, board)
            with self.signals.caught():
                for batches in self.loader.ahead(progress.step, last):
                    if progress.step >= progress.total_steps:
                        break
                    row = self.step(batches)
                    progress.step += 1
                    progress.trained_s = before + time.monotonic() - started
                    limit.shorten()
                    self._agree()
                    self._log(row, metrics, board)
                    progress_bar.update(progress.step, _note(row), limit.likely_steps)
                    stop_early = self._maybe_validate(metrics, board)
                    if self.signals.reason or stop_early or self._checkpoint_due():
                        if metrics is not None:
                            metrics.flush()
                        self.save()
                    if self.signals.reason:
                        raise Interrupted(
                            f"{self.signals.reason}: saved at step {progress.step} of {progress.total_steps}"
                        )
                    if stop_early:
                        break
        finally:
            if metrics is not None:
                metrics.close()
        self.execution.restore("best")

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimiser step over the accumulation parts; returns the row for `metrics.jsonl`."""
        progress = self.progress
        rate = learning_rate(progress.step, progress.total_steps, self.train)
        counters = ("step", self.run.seed, progress.step)
        drops_patches = progress.step < (1 - self.train.unmasked_share) * progress.total_steps
        how = self.execution.dtype, self.train.exact_contrast, drops_patches
        step = Step(self.pipeline.tasks, batches, self.pipeline.device, *how, counters)
        norm, row = self.execution.backward(step.parts(), progress.step)
        if not (math.isfinite(row["loss"]) and math.isfinite(norm)):
            self._not_finite(batches, row, norm)
        self.execution.step(progress.step, lambda depth: rate * rate_factor(depth, progress.step, self.train))
        return {"step": progress.step + 1, "lr": rate, "grad_norm": norm, **row}

    def _not_finite(self, batches: Sequence[Batch], row: Mapping[str, float], norm: float) -> None:
        step = self.progress.step + 1
        ids = [example for batch in batches for example in batch.ids]
        values = {name: str(value) for name, value in {**row, "grad_norm": norm}.items()}
        if self.execution.is_rank0:
            write_json(self.folder / "not_finite.json", {"step": step, "values": values, "examples": ids})
        raise JobError(
            f"step {step}: the loss or gradient is no longer finite ({values}); no step was taken.\n"
            f"  its examples: {self.folder / 'not_finite.json'}\n"
            "  do: lower train.lr, or train.precision=fp32, and go on from the last checkpoint with --resume"
        )

    def _agree(self) -> None:
        """Stop every process if one received a signal, and broadcast the number of steps of rank 0."""
        if self.execution.mean([float(bool(self.signals.reason))])[0] > 0 and not self.signals.reason:
            self.signals.reason = "stopped with another process"
        self.progress.total_steps = int(self.execution.broadcast([self.progress.total_steps])[0])

    def _log(self, row: Mapping[str, float], metrics: MetricsFile | None, board: TensorBoard | None) -> None:
        if metrics is not None:
            metrics.add(row)
        if board is not None:
            board.add(row)

    def _is_over(self) -> bool:
        """Whether patience has run out, or the retention check has ended the run."""
        progress = self.progress
        return 0 < self.train.patience <= progress.worse_in_a_row or bool(progress.stopped)

    def _maybe_validate(self, metrics: MetricsFile | None, board: TensorBoard | None) -> bool:
        """Validate where it is due; True where the run is to end early."""
        progress = self.progress
        every = self.train.validate_every or max(1, progress.total_steps // 10)
        if progress.step % every and progress.step != progress.total_steps:
            return False
        self._validate(metrics, board)
        return self._is_over()

    def _validate(self, metrics: MetricsFile | None, board: TensorBoard | None) -> None:
        """Validate, log, and keep the best weights; weights after a stop by the retention check are not kept."""
        progress = self.progress
        with self.execution.averaged():
            self.pipeline.model.eval()
            scores = self.hooks.validate_together()
            watched = self._check_retention()
            self.execution.wait()
            value = self.execution.broadcast([scores[self.primary].value if scores else 0.0])[0]
            if not progress.stopped and (progress.best_value is None or value > progress.best_value):
                progress.best_value, progress.best_step, progress.worse_in_a_row = value, progress.step, 0
                self.execution.keep("best")
            else:
                progress.worse_in_a_row += 1
        row = {"step": progress.step, **{f"val/{name}": score.value for name, score in scores.items()}}
        self._log({**row, **watched}, metrics, board)
        if metrics is not None:
            metrics.flush()

    def _check_retention(self) -> dict[str, float]:
        """Measure the old domain, warn of a drop, and end the run if the config sets it; returns the row to log."""
        progress, config, check = self.progress, self.train.retention, self.hooks.retention
        if not config.path:
            return {}
        score = None
        if check is not None:
            score = check.measure_first() if progress.step == 0 else check.measure()
            if progress.step == 0:
                progress.retention_before = score.as_dict()
        self.execution.wait()
        now, before = self.execution.broadcast(
            [score.value, progress.retention_before["value"]] if score else [0.0, 0.0]
        )
        has_fallen = now < config.floor(before)
        if has_fallen and config.on_drop == "stop":
            progress.stopped = f"the retention check ended training at step {progress.step}"
        if check is None or score is None:
            return {}
        if has_fallen:
            end = f"; {progress.stopped}, with the weights of step {progress.best_step}" if progress.stopped else ""
            check.warn(check.drop(progress.step, before, now) + end)
        return {f"retention/{check.metric}": now}

    def _checkpoint_due(self) -> bool:
        progress = self.progress
        every = self.train.checkpoint_every or self.train.validate_every or max(1, progress.total_steps // 10)
        return progress.step % every == 0 or progress.step == progress.total_steps

    @property
    def length(self) -> Length:
        """The steps that the config plans for these examples."""
        return planned_length(self.train, len(self.loader.dataset), self.loader.batch_size)


def _note(row: Mapping[str, float]) -> str:
    losses = [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in row.items() if name.endswith("_loss")]
    return "loss " + "  ".join(losses)
