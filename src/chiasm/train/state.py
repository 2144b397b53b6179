"""Checkpoints: the state that an exact resume needs, and its files.

A checkpoint has no random state: every draw is a function of (seed, step, epoch, id), see `core/random.py`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.run_folder import prune_checkpoints, step_folder, write_folder

_MOMENTS = ("exp_avg", "exp_avg_sq")
_KEPT = ("ema", "best", "before")
"""Copies of weights: the moving average, those with the best validation, and those from before training, which a run
that interpolates ends between."""
_OPTIONAL = ("before",)
"""Copies whose file a checkpoint only has where there is one; the others have an empty file."""

_RENAMED = {"probe_before": "retention_before"}
"""Counters under their names in run folders of format 1."""


@dataclass(slots=True)
class Progress:
    """Counters of a run; plain numbers only."""

    step: int = 0
    """Optimiser steps done."""
    total_steps: int = 0
    """Steps that the schedule runs over; shortened to fit a time limit."""
    trained_s: float = 0.0
    """Seconds spent in the loop, over all processes of the run."""
    best_value: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0
    """Validations since the best one, for early stopping."""
    precision: str = ""
    precision_why: str = ""
    lr: float = 0.0
    """Peak learning rate: set by the config, or chosen by the rule."""
    lr_why: str = ""
    retention_before: dict[str, float] = field(default_factory=dict)
    """Score of the old domain before the first step, as `Score.as_dict`; {} without a retention check."""
    stopped: str = ""
    """Why training ended before its last step, where the retention check ended it."""


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    found = {}
    for parameter, state in optimizer.state.items():
        for moment in (*_MOMENTS, "step"):
            found[f"{moment}:{names[id(parameter)]}"] = state[moment].detach().cpu().contiguous()
    return found


def checkpoint_tensors(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Mapping[str, Tensor]],
    saved: Sequence[str],
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint on the CPU, by file and name.

    Args:
        model: the fp32 model.
        optimizer: its AdamW.
        kept: copies of weights by name: "ema", "best", "before".
        saved: names of the model's tensors that belong to the run.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = model.state_dict()
    copies = {name: {key: value.cpu() for key, value in kept.get(name, {}).items()} for name in _KEPT}
    return {
        "model": {name: weights[name].detach().cpu().contiguous() for name in saved},
        "optimizer": _optimizer_tensors(optimizer, names),
        **{name: values for name, values in copies.items() if values or name not in _OPTIONAL},
    }


def save_checkpoint(
    checkpoints: Path,
    progress: Progress,
    tensors: Mapping[str, dict[str, Tensor]],
    files: Mapping[str, bytes],
    keep: int,
) -> Path:
    """Write a complete checkpoint folder, then remove old ones.

    Args:
        checkpoints: `RUN/checkpoints`.
        progress: counters.
        tensors: those of `checkpoint_tensors`, or of another execution plan, by file.
        files: further content, such as the config and the tokenizer, by file name.
        keep: complete checkpoints to leave.
    """
    content = {f"{name}.safetensors": safetensors.torch.save(values) for name, values in tensors.items()}
    content["progress.json"] = json.dumps(asdict(progress), allow_nan=False).encode()
    folder = step_folder(checkpoints, progress.step)
    write_folder(folder, "checkpoint", {**content, **files})
    prune_checkpoints(checkpoints, keep)
    return folder


def read_progress(folder: Path) -> Progress:
    """The counters of a verified checkpoint."""
    stored = read_json(folder / "progress.json", "the run's progress")
    return Progress(**{_RENAMED.get(name, name): value for name, value in stored.items()})


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Restore a verified checkpoint into the fp32 model and its optimiser, on the device of the model.

    Returns:
        The kept copies of weights by name: those of "ema", "best" and "before" that are not empty.

    Raises:
        InputError: a tensor does not fit the model.
    """
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    current = model.state_dict()
    for name, value in weights.items():
        if name not in current or current[name].shape != value.shape:
            raise InputError(
                f"{folder}: tensor {name!r} does not fit this model", "the same config", "start a new --out"
            )
    model.load_state_dict(weights, strict=False)
    named = dict(model.named_parameters())

    def read(name: str) -> dict[str, Tensor]:
        """Tensors of a file, each on the device of the parameter that its name ends with."""
        found = safetensors.torch.load_file(folder / f"{name}.safetensors")
        return {key: value.to(named[key.rpartition(":")[2]].device) for key, value in found.items()}

    # The step counters too: a fused optimiser needs them on the device of their parameters.
    for key, value in read("optimizer").items():
        kind, name = key.split(":", 1)
        optimizer.state[named[name]][kind] = value
    kept = {name: read(name) for name in _KEPT if name not in _OPTIONAL or (folder / f"{name}.safetensors").exists()}
    return {name: values for name, values in kept.items() if values}
