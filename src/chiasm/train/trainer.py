"""The loop: batch -> loss per task -> gradient -> step -> log, validate, checkpoint. There is no other one.

Tasks are trained together: a batch's pictures are encoded once, and the sum of the tasks' weighted losses is
stepped on. What differs between runs is the recipe: tasks, objectives, trainable parameters, data.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from chiasm.core.device import DTYPES
from chiasm.core.distributed import all_reduce_gradients, broadcast_from_rank0, mean_over_processes, meet, rank
from chiasm.core.errors import InputError, Interrupted, JobError
from chiasm.core.files import write_json
from chiasm.core.log import Bar, MetricsFile
from chiasm.core.shared_draws import seed_step
from chiasm.core.types import Batch, Score
from chiasm.pipeline.batching import to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.adaptation import adaptable, frozen_towers, rate_factor
from chiasm.train.config import config_of
from chiasm.train.curves import TensorBoard
from chiasm.train.forgetting import Guard
from chiasm.train.interpolation import names_between
from chiasm.train.length import Length, planned_length
from chiasm.train.loader import Loader
from chiasm.train.optimizer import AveragedModel, ComputeCopy, build_optimizer, learning_rate, trainable_names
from chiasm.train.rates import peak_rate
from chiasm.train.state import TrainState, load_checkpoint, save_checkpoint
from chiasm.train.weighting import LossCombiner, part_factors

FIT_AFTER_STEPS = 20
"""Steps before the first look at whether the run fits its time limit."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls but does not know."""

    validate: Callable[[], Mapping[str, Score]]
    """Scores of the current weights on the validation split."""
    extra_files: Callable[[], dict[str, bytes]]
    """Config and vocabularies, kept in each checkpoint so that a resumed run has the very same ones."""
    guard: Guard | None = None
    """The old domain; None in all processes but the first, and where the config names none."""


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
        self.optimizer = build_optimizer(pipeline.model, self.names, self.train)
        self.state = TrainState()
        self.teacher: AveragedModel | None = None
        self._stop: str | None = None
        self._looked_at = (0, 0.0)

    # --- state ----------------------------------------------------------------------------------------------

    def start(
        self, checkpoint: Path | None, precision: str, why: str, pretrained: frozenset[str] = frozenset()
    ) -> None:
        """Begin at step 0, or where a checkpoint stands (which also fixes precision, length and learning rate).

        Args:
            checkpoint: None begins anew.
            precision: number format of a new run.
            why: reason for it.
            pretrained: names of the parameters of a new run that do not start anew.

        Raises:
            InputError: the run interpolates, and everything that is trained starts anew.
        """
        progress = self.state.progress
        if checkpoint is not None:
            self.state = load_checkpoint(checkpoint, self.pipeline.model, self.optimizer)
            progress = self.state.progress
        else:
            progress.precision, progress.precision_why = precision, why
            progress.total_steps = self.length.steps
            progress.lr, progress.lr_why = self._rate(pretrained)
            if self.train.ema_decay:
                self.state.ema = self._weights()
            if self.train.interpolate:
                self.state.before = self._weights(self._between(pretrained))
        if not self.train.lr:
            self.train = replace(self.train, lr=progress.lr)
        self.copy = ComputeCopy(self.pipeline.model, DTYPES[progress.precision], self.names)
        self.copy.refresh()
        self.combiner = LossCombiner(self.train, self.run.tasks, [computed for _, computed in self.copy.pairs])
        if any(task.distil for task in self.run.tasks.values()):
            self.teacher = AveragedModel(self.copy.model, self.names)
            self.teacher.refresh(self.state.ema)

    def sizes(self, pretrained: frozenset[str]) -> tuple[int, int, int, int]:
        """What the learning rate goes by: numbers trained, of these pre-trained, pictures a step, steps."""
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

    def _weights(self, names: Sequence[str] = ()) -> dict[str, Tensor]:
        named = dict(self.pipeline.model.named_parameters())
        return {name: named[name].detach().clone() for name in names or self.names}

    @torch.no_grad()
    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        named = dict(self.pipeline.model.named_parameters())
        for name, value in weights.items():
            named[name].copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has the moving average's weights, where one is kept."""
        if not self.state.ema:
            yield
            return
        kept = self._weights()
        self._load_weights(self.state.ema)
        try:
            yield
        finally:
            self._load_weights(kept)

    def save(self) -> None:
        """Write a checkpoint of this step; only the first process writes."""
        if rank() == 0:
            saved = self.pipeline.saved_names()
            checkpoints = self.folder / "checkpoints"
            files, keep = self.hooks.extra_files(), self.train.keep_checkpoints
            save_checkpoint(checkpoints, self.state, self.pipeline.model, self.optimizer, saved, files, keep)

    # --- the loop -------------------------------------------------------------------------------------------

    def fit(self, progress_bar: Bar, board: TensorBoard | None) -> None:
        """Train to the end, to early stopping, or until asked to stop; `board` None draws no curves.

        Raises:
            Interrupted: a signal came; the state after the current step was saved.
            JobError: a loss or gradient stopped being finite; names the step and the examples.
        """
        progress = self.state.progress
        metrics = MetricsFile(self.folder / "metrics.jsonl", progress.step) if rank() == 0 else None
        before, started = progress.trained_s, time.monotonic()
        self._looked_at = (progress.step, before)
        last = progress.step if self._is_over() else self.length.steps
        try:
            if progress.step == 0:
                if self.train.probe.path:
                    progress.best_value, progress.worse_in_a_row = None, 0  # as if not looked at before
                    self._validate(metrics, board)
                self.save()
            if not last:
                self._validate(metrics, board)
            with self._signals():
                for batches in self.loader.ahead(progress.step, last):
                    if progress.step >= progress.total_steps:
                        break
                    row = self.step(batches)
                    progress.step += 1
                    progress.trained_s = before + time.monotonic() - started
                    self._fit_to_limit()
                    self._agree()
                    self._log(row, metrics, board)
                    progress_bar.update(progress.step, _note(row), progress.total_steps)
                    stop_early = self._maybe_validate(metrics, board)
                    if self._stop or stop_early or self._checkpoint_due():
                        if metrics is not None:
                            metrics.flush()
                        self.save()
                    if self._stop:
                        raise Interrupted(f"{self._stop}: saved at step {progress.step} of {progress.total_steps}")
                    if stop_early:
                        break
        finally:
            if metrics is not None:
                metrics.close()
        if self.state.best:
            self._load_weights(self.state.best)

    def step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimiser step over the accumulation parts; returns the row for `metrics.jsonl`."""
        progress, model = self.state.progress, self.copy.model
        rate = learning_rate(progress.step, progress.total_steps, self.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * rate_factor(group["depth"], progress.step, self.train)
        seed_step("step", self.run.seed, progress.step)
        model.train()
        for tower in frozen_towers(self.run.model):  # their outputs are those of evaluation: no dropout of their own
            model.get_submodule(tower.removesuffix(".")).eval()
        row: dict[str, float] = {}
        for batch, factor in zip(batches, part_factors(self.pipeline.tasks, batches), strict=True):
            losses = self._losses(batch.to(self.pipeline.device), factor)
            total = self.combiner.backward(model, losses, 1 / len(batches), progress.step)
            for name, value in {**{f"{task}_loss": loss for task, loss in losses.items()}, "loss": total}.items():
                row[name] = row.get(name, 0.0) + value.item() / len(batches)
        if self.combiner.compares(progress.step):
            row |= self.combiner.finish(list(self.pipeline.tasks))
        else:
            all_reduce_gradients(parameter for _, parameter in self.copy.pairs)
        self.copy.gradients_to_master()
        trained = [kept for kept, _ in self.copy.pairs]
        norm = float(torch.nn.utils.clip_grad_norm_(trained, self.train.clip_norm))
        row = dict(zip(row, mean_over_processes(list(row.values())), strict=True))
        if not (math.isfinite(row["loss"]) and math.isfinite(norm)):
            self._not_finite(batches, row, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pipeline.model.clamp_logit_scale()
        self.copy.refresh()
        if self.state.ema:
            self._average()
        return {"step": progress.step + 1, "lr": rate, "grad_norm": norm, **row}

    def _losses(self, batch: Batch, factor: Mapping[str, float]) -> dict[str, Tensor]:
        """Loss of each task, times its factor; pictures are encoded once for all of them."""
        model = self.copy.model
        assert batch.image is not None
        pictures = to_model_range(batch.image, self.copy.dtype)
        image = model.encode_image(pictures)
        teacher = None if self.teacher is None else self.teacher.look(pictures)
        found = {name: task.loss(model, image, batch, teacher)["loss"] for name, task in self.pipeline.tasks.items()}
        return {name: loss * factor[name] for name, loss in found.items()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.train.ema_decay, (1 + self.state.progress.step) / (10 + self.state.progress.step))
        named = dict(self.pipeline.model.named_parameters())
        averages = list(self.state.ema.values())
        torch._foreach_lerp_(averages, [named[name].detach() for name in self.state.ema], 1 - decay)
        if self.teacher is not None:
            self.teacher.refresh(self.state.ema)

    def _not_finite(self, batches: Sequence[Batch], row: Mapping[str, float], norm: float) -> None:
        step = self.state.progress.step + 1
        ids = [example for batch in batches for example in batch.ids]
        values = {name: str(value) for name, value in {**row, "grad_norm": norm}.items()}
        if rank() == 0:
            write_json(self.folder / "not_finite.json", {"step": step, "values": values, "examples": ids})
        raise JobError(
            f"step {step}: the loss or gradient is no longer finite ({values}); no step was taken.\n"
            f"  its examples: {self.folder / 'not_finite.json'}\n"
            "  do: lower train.lr, or train.precision=fp32, and go on from the last checkpoint with --resume"
        )

    def _agree(self) -> None:
        """Let every process stop where one was asked to, and keep the length that the first one measured."""
        stopping = sum(mean_over_processes([float(bool(self._stop))])) > 0
        if stopping and not self._stop:
            self._stop = "stopped with another process"
        self.state.progress.total_steps = int(broadcast_from_rank0([self.state.progress.total_steps])[0])

    def _log(self, row: Mapping[str, float], metrics: MetricsFile | None, board: TensorBoard | None) -> None:
        if metrics is not None:
            metrics.add(row)
        if board is not None:
            board.add(row)

    def _is_over(self) -> bool:
        """Patience is at its end, or the probe has ended the run."""
        progress = self.state.progress
        return 0 < self.train.patience <= progress.worse_in_a_row or bool(progress.stopped)

    def _maybe_validate(self, metrics: MetricsFile | None, board: TensorBoard | None) -> bool:
        """Validate where it is due; True where the run is to end early."""
        progress = self.state.progress
        every = self.train.validate_every or max(1, progress.total_steps // 10)
        if progress.step % every and progress.step != progress.total_steps:
            return False
        self._validate(metrics, board)
        return self._is_over()

    def _validate(self, metrics: MetricsFile | None, board: TensorBoard | None) -> None:
        """Measure, log, and keep the best weights: never those from after the probe has ended the run."""
        progress = self.state.progress
        with self.averaged():
            self.pipeline.model.eval()
            scores = self.hooks.validate() if rank() == 0 else {}
            watched = self._probe()
            meet()
            value = broadcast_from_rank0([scores[self.primary].value if scores else 0.0])[0]
            if not progress.stopped and (progress.best_value is None or value > progress.best_value):
                progress.best_value, progress.best_step, progress.worse_in_a_row = value, progress.step, 0
                self.state.best = self._weights()
            else:
                progress.worse_in_a_row += 1
        row = {"step": progress.step, **{f"val/{name}": score.value for name, score in scores.items()}}
        self._log({**row, **watched}, metrics, board)
        if metrics is not None:
            metrics.flush()

    def _probe(self) -> dict[str, float]:
        """Measure the old domain, tell people what was lost, and end the run where it says so; returns what to log."""
        progress, probe, guard = self.state.progress, self.train.probe, self.hooks.guard
        if not probe.path:
            return {}
        score = None
        if guard is not None:
            score = guard.first_look() if progress.step == 0 else guard.measure()
            if progress.step == 0:
                progress.probe_before = score.as_dict()
        meet()
        now, before = broadcast_from_rank0([score.value, progress.probe_before["value"]] if score else [0.0, 0.0])
        has_fallen = now < probe.floor(before)
        if has_fallen and probe.on_drop == "stop":
            progress.stopped = f"the probe ended training at step {progress.step}"
        if guard is None or score is None:
            return {}
        if has_fallen:
            end = f"; {progress.stopped}, with the weights of step {progress.best_step}" if progress.stopped else ""
            guard.warn(guard.fall(progress.step, before, now) + end)
        return {f"probe/{guard.metric}": now}

    def _checkpoint_due(self) -> bool:
        progress = self.state.progress
        every = self.train.checkpoint_every or self.train.validate_every or max(1, progress.total_steps // 10)
        return progress.step % every == 0 or progress.step == progress.total_steps

    def _fit_to_limit(self) -> None:
        """Let the schedule end when the time does: as many steps as the speed since the last look allows.

        Twenty looks a run, so that a machine that was busy for a while does not cost the whole run its length. A run
        that fits its limit anyway is not touched, and stays reproducible to the bit.
        """
        progress, limit = self.state.progress, self.train.limit_s
        every = max(FIT_AFTER_STEPS, self.length.steps // 20)
        if not limit or (progress.step % every and progress.step != FIT_AFTER_STEPS):
            return
        step, seconds = self._looked_at
        self._looked_at = (progress.step, progress.trained_s)
        if progress.step == step or progress.step > 0.95 * progress.total_steps:
            return
        seconds_a_step = (progress.trained_s - seconds) / (progress.step - step)
        fits = progress.step + int((limit - progress.trained_s) / seconds_a_step)
        progress.total_steps = min(self.length.steps, max(fits, progress.step + 1))

    @property
    def length(self) -> Length:
        """The steps that the config plans for these examples."""
        return planned_length(self.train, len(self.loader.dataset), self.loader.batch_size)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a stop after the current step; a second one ends at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = "interrupted" if number == signal.SIGINT else "terminated"

        before = {}
        with suppress(ValueError):  # not in the main thread: whoever runs the thread handles its signals
            before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _note(row: Mapping[str, float]) -> str:
    losses = [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in row.items() if name.endswith("_loss")]
    return "loss " + "  ".join(losses)
