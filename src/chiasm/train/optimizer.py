"""AdamW with the usual exceptions from weight decay, which parameters it trains, and its schedule."""

import math
from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import nn

from chiasm.core.errors import InputError
from chiasm.models.lora import LORA_NAMES
from chiasm.train.adaptation import by_depth, stated_layers
from chiasm.train.config import TrainConfig

MAX_WARMUP = 500
WARMUP_SHARE = 0.05


def trainable_names(model: nn.Module, patterns: Sequence[str], frozen: Sequence[str]) -> list[str]:
    """Names of the parameters that match a pattern and are not in a frozen tower, whose low-rank changes are trained.

    Raises:
        InputError: a pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            tops = sorted({name.split(".")[0] for name in names})
            raise InputError(
                f"train.trainable has {pattern!r}, which matches no parameter",
                "patterns such as " + ", ".join(f"{top}.*" for top in tops),
                "correct the pattern",
            )
    is_open = {name: name.endswith(LORA_NAMES) or not name.startswith(tuple(frozen)) for name in names}
    chosen = [name for name in names if is_open[name] and any(fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        raise InputError("nothing is trainable", "at least one parameter", "widen train.trainable, or unfreeze a tower")
    return chosen


def has_decay(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; norms, biases, the temperature (all of one dimension or none) and learned tokens do not."""
    tokens = ("position", "summary", "queries", ".query", "query_token", "types.weight")
    is_token = ".absent." in name or name.endswith(tokens)
    return parameter.ndim >= 2 and not is_token


def build_optimizer(model: nn.Module, names: Sequence[str], train: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the named parameters, decaying and non-decaying in two groups.

    With learning rates by layer, each depth has two groups; a group's "depth" is its depth.
    """
    named = dict(model.named_parameters())
    groups = []
    for depth, own in by_depth(names, train, stated_layers(model)).items():
        for decays in (True, False):
            chosen = [named[name] for name in own if has_decay(name, named[name]) == decays]
            groups.append({"params": chosen, "weight_decay": train.weight_decay if decays else 0.0, "depth": depth})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=train.lr, betas=(0.9, train.beta2), fused=True)


def learning_rate(step: int, total: int, train: TrainConfig) -> float:
    """Rate of step 0 <= step < total: linear warm-up that fits the run's length, then a cosine to zero."""
    warmup = train.warmup_steps if train.warmup_steps >= 0 else min(MAX_WARMUP, math.ceil(WARMUP_SHARE * total))
    warmup = min(warmup, total // 2)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
