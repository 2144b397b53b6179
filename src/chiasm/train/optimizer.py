"""AdamW with the usual exceptions, its schedule, and weights that are computed with in bf16 but kept in fp32."""

import copy
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.base import Teacher
from chiasm.train.adaptation import by_depth, stated_layers
from chiasm.train.config import TrainConfig

MAX_WARMUP = 500
WARMUP_SHARE = 0.05


def trainable_names(model: nn.Module, patterns: Sequence[str], frozen: Sequence[str]) -> list[str]:
    """Names of the parameters that match a pattern and are not in a frozen tower.

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
    chosen = [n for n in names if any(fnmatch(n, p) for p in patterns) and not n.startswith(tuple(frozen))]
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

    Where layers have rates of their own, each depth has two groups; a group's "depth" says which.
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


class ComputeCopy:
    """The model that runs forward and backward: the fp32 model itself, or a bf16 copy of it.

    Pure bf16 weights beat autocast on a CPU, because autocast casts every weight at every use. The optimiser
    updates fp32 masters, so that small updates are not rounded away (Micikevicius et al. 2018, section 3.1); the
    temperature stays fp32 in the copy too.
    """

    def __init__(self, master: VisionLanguageModel, dtype: torch.dtype, names: Sequence[str]) -> None:
        self.master = master
        self.dtype = dtype
        self.model = master if dtype is torch.float32 else copy.deepcopy(master).to(dtype)
        masters, copies = dict(master.named_parameters()), dict(self.model.named_parameters())
        self.pairs = [(masters[name], copies[name]) for name in names]
        for _, computed in self.pairs:
            if computed.ndim == 0:
                computed.data = computed.data.float()
        chosen = set(names)
        for name, computed in self.model.named_parameters():
            computed.requires_grad_(name in chosen)

    def gradients_to_master(self) -> None:
        """Move gradients of the copy to the fp32 parameters."""
        if self.model is self.master:
            return
        for kept, computed in self.pairs:
            kept.grad = None if computed.grad is None else computed.grad.to(kept.dtype)
            computed.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the copy after a step."""
        if self.model is not self.master:
            torch._foreach_copy_([computed for _, computed in self.pairs], [kept for kept, _ in self.pairs])


class AveragedModel:
    """The moving average of the weights as a model that can be asked: the teacher of momentum distillation.

    ALBEF (Li et al. 2021, section 3.3) keeps such a copy with decay 0.995; here it is the run's own `ema_decay`, so a
    resumed run has the very same teacher.
    """

    def __init__(self, model: VisionLanguageModel, names: Sequence[str]) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        named = dict(self.model.named_parameters())
        self.parameters = {name: named[name] for name in names}

    @torch.no_grad()
    def refresh(self, average: Mapping[str, Tensor]) -> None:
        """Take over the averages after a step."""
        torch._foreach_copy_(list(self.parameters.values()), [average[name] for name in self.parameters])

    @torch.no_grad()
    def look(self, pictures: Tensor | Tokens) -> Teacher:
        """Encode a batch's pictures as the average does."""
        return Teacher(self.model, self.model.encode_image(pictures))
