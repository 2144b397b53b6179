"""All that a run needs to go on as if it had never stopped, and the folder it is kept in.

There is no random state in here: every draw is a function of (seed, step, epoch, id), see `core/random.py`.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.run_folder import prune_checkpoints, step_folder, write_folder

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class Progress:
    """Counters of a run; plain numbers only."""

    step: int = 0
    """Optimiser steps done."""
    total_steps: int = 0
    """Steps that the schedule runs over; shortened once where a time limit asks for it."""
    trained_s: float = 0.0
    """Seconds spent in the loop, over all processes of the run."""
    best_value: float | None = None
    best_step: int = 0
    worse_in_a_row: int = 0
    """Validations since the best one, for early stopping."""
    precision: str = ""
    precision_why: str = ""
    lr: float = 0.0
    """Peak learning rate: what the config says, or what was chosen."""
    lr_why: str = ""
    probe_before: dict[str, float] = field(default_factory=dict)
    """Score of the old domain before the first step, as `Score.as_dict`; {} without a probe."""
    stopped: str = ""
    """Why training ended before its last step, where the probe ended it."""


@dataclass(slots=True)
class TrainState:
    """Progress, and the weights beside the model's own: moving average and best."""

    progress: Progress = field(default_factory=Progress)
    ema: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    """Weights from before training that it ends between, where the run interpolates."""


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    found = {}
    for parameter, state in optimizer.state.items():
        for moment in (*_MOMENTS, "step"):
            found[f"{moment}:{names[id(parameter)]}"] = state[moment].detach().cpu().contiguous()
    return found


def save_checkpoint(
    checkpoints: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    saved: list[str],
    files: dict[str, bytes],
    keep: int,
) -> Path:
    """Write a complete checkpoint folder, then remove old ones.

    Args:
        checkpoints: `RUN/checkpoints`.
        state: counters and extra weights.
        model: the fp32 model.
        optimizer: its AdamW.
        saved: names of the tensors that belong to the run.
        files: further content, such as the config and the tokenizer, by file name.
        keep: complete checkpoints to leave.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = model.state_dict()
    tensors = {
        "model": {name: weights[name].detach().cpu().contiguous() for name in saved},
        "optimizer": _optimizer_tensors(optimizer, names),
        "ema": {name: value.cpu() for name, value in state.ema.items()},
        "best": {name: value.cpu() for name, value in state.best.items()},
    }
    if state.before:
        tensors["before"] = {name: value.cpu() for name, value in state.before.items()}
    content = {f"{name}.safetensors": safetensors.torch.save(values) for name, values in tensors.items()}
    content["progress.json"] = json.dumps(asdict(state.progress), allow_nan=False).encode()
    folder = step_folder(checkpoints, state.progress.step)
    write_folder(folder, "checkpoint", {**content, **files})
    prune_checkpoints(checkpoints, keep)
    return folder


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Restore a verified checkpoint into the fp32 model and its optimiser, on the device of the model.

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
        """Tensors of a file, each on the device of the parameter that the end of its name tells."""
        found = safetensors.torch.load_file(folder / f"{name}.safetensors")
        return {key: value.to(named[key.rpartition(":")[2]].device) for key, value in found.items()}

    # The counters of steps too: a fused optimiser wants them beside their parameters.
    for key, value in read("optimizer").items():
        kind, name = key.split(":", 1)
        optimizer.state[named[name]][kind] = value
    progress = Progress(**read_json(folder / "progress.json", "the run's progress"))
    before = read("before") if (folder / "before.safetensors").exists() else {}
    return TrainState(progress, read("ema"), read("best"), before)
